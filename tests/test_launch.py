"""The files in launch/: their shell, what they ask of each cluster, and a real SLURM where there is one."""

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import pytest
import yaml
from tpu_slices import devices_of

from alexnet_jax.cli import train
from alexnet_jax.cli.flags import take_recipe
from alexnet_jax.model import towers

ROOT = Path(__file__).resolve().parent.parent
LAUNCH = ROOT / "launch"
SCRIPTS = sorted(LAUNCH.glob("*.sh"))


@pytest.fixture(scope="module")
def kubernetes() -> dict[str, Any]:
    return {part["kind"]: part for part in yaml.safe_load_all((LAUNCH / "jobset.yaml").read_text()) if part}


@pytest.fixture(scope="module")
def job(kubernetes: dict[str, Any]) -> dict[str, Any]:
    (replicated,) = kubernetes["JobSet"]["spec"]["replicatedJobs"]
    assert replicated["replicas"] == 1
    return dict(replicated["template"]["spec"])


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.name)
def test_shell(path: Path) -> None:
    subprocess.run(["bash", "-n", path], check=True)
    if shutil.which("shellcheck"):
        subprocess.run(["shellcheck", path], check=True)


def test_every_flag_is_one_of_train(job: dict[str, Any]) -> None:
    """Also those that are fields of the config."""
    (container,) = job["template"]["spec"]["containers"]
    in_shell = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())["run"] + (LAUNCH / "slurm.sh").read_text()
    given = [*container["args"], *re.findall(r"^ +(--\S+=.*?)(?: \\)?$", in_shell, re.MULTILINE)]
    given += re.findall(r"flags\+=\((.*)\)", in_shell)
    assert len(given) == 3 + 6 + 1
    _, _, flags = take_recipe(given, default="alexnet:imagenet2012_pack256")
    assert {flag.lstrip("-").partition("=")[0] for flag in flags} <= {*train._FLAGS}


class Slurm:
    """Stands for SLURM: `srun` runs what it is given, and every call of the others is written down."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.bin = folder, folder / "bin"
        self.bin.mkdir()
        self.calls = folder / "calls"
        self.command("srun", 'while [[ $1 == --* ]]; do shift; done; exec "$@"')
        self.command("scontrol", 'echo "scontrol $*" >> "$CALLS"')
        self.command("scancel", 'echo "scancel $*" >> "$CALLS"; kill -TERM "$(cat "$CALLS.pid")"')
        self.state("RUNNING")

    def command(self, name: str, text: str) -> Path:
        path = self.bin / name
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)
        return path

    def state(self, word: str) -> None:
        self.command("squeue", f"echo {word}")

    def start(self, python: str, **environment: str) -> subprocess.Popen[str]:
        """launch/slurm.sh with a Python that is these lines of shell."""
        given = {
            "PATH": f"{self.bin}:{os.environ['PATH']}", "CALLS": str(self.calls), "SLURM_JOB_ID": "7",
            "SLURM_NTASKS": "2", "SLURM_JOB_NUM_NODES": "2", "SLURM_JOB_NODELIST": "n[1-2]",
            "PYTHON": str(self.command("python", python)),
        }  # fmt: skip
        command = ["bash", LAUNCH / "slurm.sh", "--workdir=runs/a b"]
        return subprocess.Popen(command, env=given | environment, stdout=subprocess.PIPE, text=True)

    def called(self) -> list[str]:
        return self.calls.read_text().splitlines() if self.calls.exists() else []


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    return Slurm(tmp_path)


AGAIN = ["scontrol requeue 7"]


_LAST = {"RESTARTS": "3", "SLURM_RESTART_COUNT": "3"}


@pytest.mark.parametrize(
    ("status", "state", "environment", "calls"),
    [
        *((status, "RUNNING", {}, AGAIN) for status in (75, 143, 129, 137)),
        *((status, "RUNNING", {}, []) for status in (0, 1, 127, 253)),
        *((143, state, {}, []) for state in ("CANCELLED", "COMPLETING", "PENDING")),
        (75, "RUNNING", _LAST, []),
    ],
)
def test_slurm_starts_again_by_the_status(
    status: int, state: str, environment: dict[str, str], calls: list[str], slurm: Slurm
) -> None:
    """docs/faults.md: 75 and what a signal ended; not what finished, failed, was canceled or restarted too often."""
    slurm.state(state)
    job = slurm.start(f"exit {status}", **environment)
    job.communicate(timeout=120)
    assert (slurm.called(), job.returncode) == (calls, 0 if calls else status)


def _started(slurm: Slurm, job: subprocess.Popen[str]) -> None:
    while not Path(f"{slurm.calls}.pid").exists():
        assert job.poll() is None
        time.sleep(0.02)


_SAVES = """trap 'sleep 0.3; echo saved; exit 143' TERM
echo $$ > "$CALLS.new"; mv "$CALLS.new" "$CALLS.pid"
while :; do sleep 0.05; done"""


def test_slurm_near_the_time_limit(slurm: Slurm) -> None:
    """USR1 to the script: the processes get SIGTERM, the script waits until they have saved, and queues the job."""
    job = slurm.start(_SAVES)
    _started(slurm, job)
    job.send_signal(signal.SIGUSR1)
    said, _ = job.communicate(timeout=120)
    assert slurm.called() == ["scancel --signal=TERM 7", *AGAIN]
    assert "saved" in said
    assert "status 143" in said


def test_slurm_ended_by_somebody(slurm: Slurm) -> None:
    """SIGTERM to the script and the processes, as by `scancel` and `scontrol requeue`: it waits, and SLURM decides."""
    job = slurm.start(_SAVES)
    _started(slurm, job)
    slurm.state("COMPLETING")
    job.send_signal(signal.SIGTERM)
    os.kill(int(Path(f"{slurm.calls}.pid").read_text()), signal.SIGTERM)
    said, _ = job.communicate(timeout=120)
    assert (slurm.called(), job.returncode) == ([], 143)
    assert "saved" in said


@pytest.mark.parametrize(("tasks", "flags"), [("2", ["--local_devices=all"]), ("16", [])])
def test_slurm_gives_a_process_its_gpus(tasks: str, flags: list[str], slurm: Slurm) -> None:
    """One process per node takes all GPUs; for one per GPU JAX's own choice is right (jax-ml/jax#16788)."""
    job = slurm.start('printf "%s\\n" "$@"', SLURM_NTASKS=tasks)
    said, _ = job.communicate(timeout=120)
    assert said.splitlines()[1:-1] == ["main.py", "--workdir=runs/a b", *flags]


def test_slurm_asks_for_requeue_and_a_signal() -> None:
    asked = set(re.findall(r"^#SBATCH (\S+)$", (LAUNCH / "slurm.sh").read_text(), re.MULTILINE))
    assert {"--requeue", "--open-mode=append", "--signal=B:USR1@120"} <= asked


_DAEMONS = ("slurmctld", "slurmd", "munged", "unshare", "ip")
_HAS_SLURM = all(map(shutil.which, _DAEMONS)) and os.geteuid() == 0


@pytest.mark.skipif(not _HAS_SLURM, reason="needs root and slurm-wlm, munge")
def test_a_real_slurm() -> None:
    """Two virtual nodes: requeued, out of time, a process killed: the same checkpoint, bit for bit."""
    allowed = subprocess.run(["unshare", "--mount", "--pid", "--net", "--fork", "true"], capture_output=True)
    if allowed.returncode:
        pytest.skip("this machine allows no namespaces")
    done = subprocess.run([sys.executable, LAUNCH / "try_slurm.py"], capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "of both: 0 of 40 arrays differ" in done.stdout


def test_jobset_has_as_many_pods_as_processes(kubernetes: dict[str, Any], job: dict[str, Any]) -> None:
    """JAX takes `parallelism` for the number of processes and the completion index for the process (k8s_cluster.py)."""
    assert kubernetes["JobSet"]["apiVersion"] == "jobset.x-k8s.io/v1alpha2"
    assert job["parallelism"] == job["completions"] > 1
    assert job["completionMode"] == "Indexed"


def test_jobset_starts_again_by_the_status(kubernetes: dict[str, Any], job: dict[str, Any]) -> None:
    """Status 1 fails the job by its pod failure policy, and that the JobSet; any other one restarts all pods."""
    spec, pod = kubernetes["JobSet"]["spec"], job["template"]["spec"]
    (rule,) = job["podFailurePolicy"]["rules"]
    assert rule["action"] == "FailJob"
    assert rule["onExitCodes"] == {"containerName": pod["containers"][0]["name"], "operator": "In", "values": [1]}
    (ends,) = spec["failurePolicy"]["rules"]
    assert (ends["action"], ends["onJobFailureReasons"]) == ("FailJobSet", ["PodFailurePolicy"])
    assert spec["failurePolicy"]["maxRestarts"] > 0
    # Kubernetes refuses a pod failure policy beside another restart policy, and a single pod must not come back alone.
    assert pod["restartPolicy"] == "Never"
    assert job["backoffLimit"] == 0


def test_jobset_may_ask_who_is_there(kubernetes: dict[str, Any], job: dict[str, Any]) -> None:
    """JAX lists pods and services and reads the job, as the pods' service account (k8s_cluster.py)."""
    pod = job["template"]["spec"]
    account = kubernetes["ServiceAccount"]["metadata"]["name"]
    assert pod["serviceAccountName"] == account
    binding, role = kubernetes["RoleBinding"], kubernetes["Role"]
    assert binding["subjects"] == [{"kind": "ServiceAccount", "name": account}]
    assert (binding["roleRef"]["kind"], binding["roleRef"]["name"]) == ("Role", role["metadata"]["name"])
    may = {(what, verb) for rule in role["rules"] for what in rule["resources"] for verb in rule["verbs"]}
    assert {("pods", "list"), ("services", "list"), ("jobs", "get")} <= may
    mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}


def test_skypilot(tmp_path: Path) -> None:
    """Statuses that are started again, and what each node runs."""
    task = yaml.safe_load((LAUNCH / "skypilot.yaml").read_text())
    assert task["resources"]["job_recovery"]["recover_on_exit_codes"] == [75, 143]
    python = tmp_path / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text('#!/usr/bin/env bash\nprintf "%s\\n" "$@"\n')
    python.chmod(0o755)
    nodes = {"SKYPILOT_NODE_IPS": "10.0.0.1\n10.0.0.2", "SKYPILOT_NUM_NODES": "2", "SKYPILOT_NODE_RANK": "1"}
    done = subprocess.run(
        ["bash", "-c", task["run"]], cwd=tmp_path, env=os.environ | nodes, capture_output=True, text=True
    )
    given = done.stdout.splitlines()
    assert given[-3:] == ["--coordinator=10.0.0.1:12355", "--num_processes=2", "--process_id=1"]


@pytest.mark.parametrize(("tower", "mesh"), [(0, "8 x 2"), (1, "16 x 1")])
def test_tpu_starts_a_slice_that_can_be_fed(tower: int, mesh: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The default one, whose hosts and meshes its line names."""
    (line,) = re.findall("^TYPE=.*$", (LAUNCH / "tpu.sh").read_text(), re.MULTILINE)
    assert line.startswith("TYPE=${TYPE:-v5litepod-16} # 16 chips on 4 hosts: ")
    grid = towers.make_mesh(towers=2, tower=tower, devices=devices_of("v5e:4x4"))
    assert " x ".join(map(str, grid.devices.shape)) == mesh
    assert f"of {mesh}" in line
    shares = set()
    for process in range(4):
        monkeypatch.setattr(jax, "process_index", lambda process=process: process)
        shares.add(towers.feed_share(grid))
    assert shares == {(part, 4) for part in range(4)}


@pytest.mark.parametrize(("statuses", "last"), [([75, 75, 0], 0), ([75, 1], 1), ([143], 143)])
def test_tpu_starts_again_by_the_status(statuses: list[int], last: int, tmp_path: Path) -> None:
    """The loop on the hosts, with a `gcloud` that runs it here."""
    host = tmp_path / "alexnet_jax" / ".venv" / "bin"
    host.mkdir(parents=True)
    (tmp_path / "statuses").write_text("".join(f"{status}\n" for status in statuses))
    next_one = shlex.quote(str(tmp_path / "statuses"))
    stubs = {
        host / "python": f'echo "$@" >> {next_one}.flags; s=$(head -n 1 {next_one}); sed -i 1d {next_one}; exit "$s"',
        tmp_path / "gcloud": 'for a; do case $a in --command=*) exec bash -c "${a#--command=}";; esac; done',
        tmp_path / "sleep": "exit 0",
    }
    for path, text in stubs.items():
        path.write_text(f"#!/usr/bin/env bash\n{text}\n")
        path.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["bash", LAUNCH / "tpu.sh", "train", "--config=alexnet:a b", "--workdir=$HOME"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, timeout=120)
    assert done.returncode == last
    flags = (tmp_path / "statuses.flags").read_text().splitlines()
    assert flags == ["main.py --config=alexnet:a b --workdir=$HOME"] * len(statuses)
