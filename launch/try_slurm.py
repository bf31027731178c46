"""Tries launch/slurm.sh on a real SLURM of two virtual nodes on this machine: sudo .venv/bin/python launch/try_slurm.py

It needs root, the packages `slurm-wlm` and `munge` and util-linux' `unshare`. The daemons run in namespaces of their
own (processes, network, mounts) and in a temporary folder: nothing of theirs is left when this ends, however it ends.

One job trains a small network undisturbed. Another one is requeued, told that its time is up, and loses a process; it
starts four times and must end with the same checkpoint, bit for bit. A third one fails and a fourth one is canceled:
neither may start again. Prints the commands and what the logs say; the status is 0 where all of it came true.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
STEPS = 400
_START = time.monotonic()
_NEEDED = ("slurmctld", "slurmd", "munged", "unshare", "ip")
# The shape that the virtual nodes have: one CPU for each process, and no GPU.
_SHAPE = ("--gpus-per-node=0", "--cpus-per-task=1", "--time=10")

_CONFIG = """
ClusterName=try
SlurmctldHost={host}(10.77.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
SlurmUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
ReturnToService=2
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
GresTypes=gpu
SchedulerParameters=sched_interval=1,bf_interval=1
SlurmdParameters=config_overrides
NodeName=n1 NodeHostname={host} NodeAddr=10.77.0.1 Port=17001 CPUs=2
NodeName=n2 NodeHostname={host} NodeAddr=10.77.0.1 Port=17002 CPUs=2
PartitionName=all Nodes=n1,n2 Default=YES State=UP
"""


def main() -> None:
    """Runs everything, in namespaces of its own."""
    if missing := [name for name in _NEEDED if not shutil.which(name)]:
        sys.exit(f"error: {', '.join(missing)} not found: apt-get install slurm-wlm munge util-linux iproute2.")
    if os.geteuid():
        sys.exit("error: the daemons of SLURM need root: start this with sudo.")
    if "TRY_SLURM" not in os.environ:
        inside = ["unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "--mount-proc"]
        os.environ["TRY_SLURM"] = "inside"
        os.execvp("unshare", [*inside, sys.executable, *sys.argv])
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("error: SIGTERM"))
    with tempfile.TemporaryDirectory(prefix="try-slurm-") as name:
        try:
            with _slurm(Path(name)):
                _try(Path(name))
        except AssertionError:
            for log in sorted(Path(name).glob("*.log")):
                print(f"==> {log.name}", *log.read_text(errors="replace").splitlines()[-15:], sep="\n    ", flush=True)
            raise


def _try(folder: Path) -> None:
    whole, cut = folder / "whole", folder / "cut"
    job = _submit(folder, whole)
    _wait("the undisturbed job ends", lambda: _state(job) == "COMPLETED", 300)

    job = _submit(folder, cut)
    _at_step(folder, job, STEPS // 6)
    _run("scontrol", "requeue", job)
    _start_again(job)
    _at_step(folder, job, STEPS // 3)
    _run("scancel", "--batch", "--signal=USR1", job)  # what SLURM sends two minutes before the time limit
    _start_again(job)
    _at_step(folder, job, 2 * STEPS // 3)
    process = _process(cut, rank=1)
    _say(f"$ kill -9 {process}  # process 1 of the job")
    os.kill(process, signal.SIGKILL)
    _start_again(job)
    _wait("the disturbed job ends", lambda: _state(job) == "COMPLETED", 300)
    _show(folder, job)
    assert "Restarts=3" in _run("scontrol", "show", "job", job, show=False)

    fails = _submit(folder, folder / "fails", "--config.train.learning_rate=-1")
    _wait("the wrong job fails", lambda: _state(fails) == "FAILED", 120)
    _show(folder, fails)
    canceled = _submit(folder, folder / "canceled")
    _at_step(folder, canceled, 10)
    _run("scancel", canceled)
    _wait("the canceled job ends", lambda: _state(canceled) == "CANCELLED", 60)
    _show(folder, canceled)
    for ended in (fails, canceled):
        assert "Restarts=0" in _run("scontrol", "show", "job", ended, show=False)

    different, count = _compare(whole, cut)
    _say(f"checkpoint {STEPS} of both: {different} of {count} arrays differ")
    sys.exit(bool(different))


# ---------------------------------------------------------------- jobs


def _submit(folder: Path, workdir: Path, *fields: str) -> str:
    """The number of a new job that trains the small network of the tests in `workdir`."""
    sys.path.insert(0, str(ROOT / "tests"))
    from conftest import SMALL

    size = [f"--config.{name}={value}" for name, value in SMALL.items()]
    short = [f"--config.train.steps={STEPS}", "--config.checkpoint.every_steps=40", "--config.eval.every_epochs=9"]
    given = [f"--workdir={workdir}", *short, *fields]
    _say(f"$ sbatch {shlex.join([*_SHAPE, 'launch/slurm.sh', *given])}  # and the sizes in tests/conftest.py")
    submit = ["sbatch", "--parsable", f"--output={folder}/job-%j.log", *_SHAPE, "launch/slurm.sh", *size, *given]
    return _run(*submit, show=False).strip()


def _state(job: str) -> str:
    return re.findall(r"JobState=(\w+)", _run("scontrol", "show", "job", job, show=False))[0]


def _log(folder: Path, job: str) -> str:
    path = folder / f"job-{job}.log"
    return path.read_text(errors="replace") if path.exists() else ""


def _at_step(folder: Path, job: str, step: int) -> None:
    """Waits until the job has logged a step at or after `step`."""

    def there() -> bool:
        assert _state(job) in ("PENDING", "CONFIGURING", "RUNNING"), _log(folder, job)
        return any(int(seen.replace(",", "")) >= step for seen in re.findall(r"step ([\d,]+)/", _log(folder, job)))

    _wait(f"job {job} reaches step {step}", there, 300)


def _start_again(job: str) -> None:
    """Waits until the job is queued again, and takes away most of the two minutes that SLURM waits before a restart."""
    _wait(f"job {job} is queued again", lambda: _state(job) == "PENDING", 180)
    # Within a second the nodes take it for the start that they were told to end.
    _run("scontrol", "update", f"jobid={job}", "StartTime=now+3")
    _wait(f"job {job} runs again", lambda: _state(job) == "RUNNING", 60)


def _process(workdir: Path, rank: int) -> int:
    """The Python process of a job's process number `rank`."""
    for entry in Path("/proc").iterdir():
        try:
            command = (entry / "cmdline").read_bytes().decode().split("\0")
            environment = (entry / "environ").read_bytes().decode().split("\0")
        except (OSError, UnicodeDecodeError):
            continue
        python = "main.py" in command and Path(command[0]).name.startswith("python")
        if python and f"--workdir={workdir}" in command and f"SLURM_PROCID={rank}" in environment:
            return int(entry.name)
    raise AssertionError(f"no process {rank} of {workdir}")


def _show(folder: Path, job: str) -> None:
    """Prints the lines of a job's log that say how it started and ended."""
    wanted = r"job \d+|resumed|saved|saving|lost|error|done:|requeue|SIGTERM"
    for line in _log(folder, job).splitlines():
        if re.search(wanted, line):
            _say(f"    {line}")


def _compare(left: Path, right: Path) -> tuple[int, int]:
    """(how many arrays of the last checkpoints differ in any bit, how many there are)."""
    import jax
    import numpy as np
    import orbax.checkpoint as ocp
    from absl import flags, logging

    flags.FLAGS.mark_as_parsed()
    logging.set_verbosity(logging.ERROR)

    def arrays(workdir: Path) -> dict[str, bytes]:
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as checkpointer:
            path = workdir / "checkpoints" / str(STEPS) / "default"
            there = checkpointer.metadata(path).item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), there)
            tree = checkpointer.restore(path, args=ocp.args.PyTreeRestore(restore_args=as_numpy))
        return {jax.tree_util.keystr(p): np.asarray(x).tobytes() for p, x in jax.tree_util.tree_leaves_with_path(tree)}

    ours, theirs = arrays(left), arrays(right)
    assert ours.keys() == theirs.keys()
    return sum(ours[name] != theirs[name] for name in ours), len(ours)


# ---------------------------------------------------------------- SLURM


@contextmanager
def _slurm(folder: Path) -> Iterator[None]:
    """The daemons of a SLURM with the nodes n1 and n2, in `folder`."""
    host = socket.gethostname()
    folder.chmod(0o755)
    (folder / "state").mkdir()
    (folder / "hosts").write_text(f"127.0.0.1 localhost\n10.77.0.1 {host} n1 n2\n")
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o600)
    (folder / "slurm.conf").write_text(_CONFIG.format(host=host, folder=folder))
    os.environ |= {"SLURM_CONF": str(folder / "slurm.conf"), "TMPDIR": str(folder)}
    os.environ |= {"JAX_PLATFORMS": "cpu", "PYTHON": sys.executable}  # of the jobs
    _run("ip", "link", "set", "lo", "up", show=False)
    # With 127.0.0.1 alone getaddrinfo(AI_ADDRCONFIG), which SLURM uses, finds no address at all.
    _run("ip", "address", "add", "10.77.0.1/32", "dev", "lo", show=False)
    _run("mount", "--bind", str(folder / "hosts"), "/etc/hosts", show=False)  # in this namespace only
    munge = [f"--{name}={folder}/munge.{name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
    commands = [
        ["munged", "--foreground", "--force", f"--key-file={folder}/munge.key", *munge],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D", "-N", "n1"],
        ["slurmd", "-D", "-N", "n2"],
    ]
    daemons = []
    try:
        for number, command in enumerate(commands):
            with (folder / f"daemon-{number}.log").open("w") as log:
                daemons.append(subprocess.Popen(command, stdout=log, stderr=log))
            if number == 0:
                _wait("munge listens", (folder / "munge.socket").exists, 10)
        _say(_run("slurmctld", "-V", show=False).strip())
        _wait("both nodes are idle", lambda: _idle() == 2, 60)
        _say(_run("sinfo", "--Node").rstrip())
        yield
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
        for daemon in daemons:
            daemon.wait()


def _idle() -> int:
    done = subprocess.run(["sinfo", "--noheader", "--Node", "--format=%T"], capture_output=True, text=True)
    return done.stdout.split().count("idle")


def _say(text: str) -> None:
    """Prints it, with the seconds since the start."""
    print(f"{time.monotonic() - _START:4.0f} s  {text}", flush=True)


def _run(*command: str, show: bool = True) -> str:
    if show:
        _say(f"$ {shlex.join(command)}")
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, f"{shlex.join(command)}: {done.stderr}"
    return done.stdout


def _wait(what: str, true: Callable[[], bool], seconds: float) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, f"after {seconds} s still not: {what}"
        time.sleep(0.1)


if __name__ == "__main__":
    main()
