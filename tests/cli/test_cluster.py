"""Where a process stands: read off the cluster's environment, or off the flags."""

import sys

import pytest
from absl import flags

from alexnet_jax.cli import cluster, train
from alexnet_jax.errors import AlexNetError

_SLURM = {
    "SLURM_JOB_ID": "4097",
    "SLURM_STEP_NODELIST": "node[07-08]",
    "SLURM_NTASKS": "4",
    "SLURM_PROCID": "3",
    "SLURM_LOCALID": "1",
    "SLURM_STEP_NUM_NODES": "2",
}
_OPEN_MPI = {
    "OMPI_MCA_orte_hnp_uri": "1531576320.0;tcp://10.96.0.1,10.148.0.1:34911",
    "OMPI_COMM_WORLD_SIZE": "2",
    "OMPI_COMM_WORLD_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_RANK": "1",
}


def _place(monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], *given: str) -> tuple[object, ...]:
    others = ("CUDA_VISIBLE_DEVICES", "KUBERNETES_SERVICE_HOST", "JOB_COMPLETION_INDEX", "TPU_WORKER_ID")
    for name in (*_SLURM, *_OPEN_MPI, *others):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    values = flags.FlagValues()
    values.append_flag_values(train._FLAGS)
    values.unparse_flags()
    values(["alexnet", *given])
    place = cluster._place(values)
    train._FLAGS.unparse_flags()
    return place


@pytest.mark.parametrize(
    ("environment", "given", "place"),
    [
        ({}, [], ("", 1, 0, None)),
        ({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, [], ("", 1, 0, None)),  # a notebook's pod
        # JAX's own rules: port 61440 + job number modulo 4096, the first node, one device for each process of a node.
        (_SLURM, [], ("node07:61441", 4, 3, [1])),
        (_SLURM, ["--local_devices=all"], ("node07:61441", 4, 3, None)),
        (_SLURM, ["--local_devices=2,3"], ("node07:61441", 4, 3, [2, 3])),
        (_SLURM | {"CUDA_VISIBLE_DEVICES": "0,1"}, [], ("node07:61441", 4, 3, [1])),
        # --gpus-per-task: the process sees its own GPU alone, whatever its number on the node.
        (_SLURM | {"CUDA_VISIBLE_DEVICES": "0"}, [], ("node07:61441", 4, 3, None)),
        (_SLURM, ["--nodistributed"], ("", 1, 0, None)),
        (_OPEN_MPI, [], ("10.96.0.1:62624", 2, 1, [1])),
        # What is said on the line comes before what is found.
        (_SLURM, ["--coordinator=a:1", "--num_processes=2", "--process_id=0"], ("a:1", 2, 0, None)),
    ],
)
def test_where_a_process_stands(
    environment: dict[str, str], given: list[str], place: tuple[object, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert _place(monkeypatch, environment, *given) == place


def test_an_indexed_job_whose_others_cannot_be_found_does_not_train_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each process would train into the same workdir."""
    pod = {"KUBERNETES_SERVICE_HOST": "10.0.0.1", "JOB_COMPLETION_INDEX": "1"}
    monkeypatch.setitem(sys.modules, "kubernetes", None)  # it is not installed
    with pytest.raises(AlexNetError, match=r"install jax\[k8s\]"):
        _place(monkeypatch, pod)
    assert _place(monkeypatch, pod, "--nodistributed") == ("", 1, 0, None)
