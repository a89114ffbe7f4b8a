"""A cluster through its script, a run through its folder: what machines are, what is saved."""

import argparse
import contextlib
import enum
import json
import math
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
from collections.abc import Mapping, Sequence

from machines import machine

POLL_LIMIT_SECONDS = 120.0  # of a call that only looks
LAUNCH = pathlib.Path(__file__).resolve().parent
TOO_LONG = 124  # exit status of a call that was ended for it


class Phase(enum.IntEnum):
    """What machines are, from the best to the worst: the worst word of a state decides."""

    READY = 0
    QUEUED = 1  # waits for capacity, which costs nothing
    STARTING = 2
    UNKNOWN = 3  # the cluster did not answer, or with a word that is not known
    LOST = 4
    GONE = 5


WORDS = {
    Phase.READY: "ACTIVE READY RUNNING NONE COMPLETING",
    Phase.QUEUED: "ACCEPTED WAITING_FOR_RESOURCES PENDING REQUEUED REQUEUE_HOLD",
    Phase.STARTING: "GROUP PROVISIONING CREATING STAGING STARTING CONFIGURING VERIFYING "
    "RECONCILING REPAIRING",
    Phase.LOST: "PREEMPTED SUSPENDING SUSPENDED TERMINATED STOPPING STOPPED STOPPING_DELETING "
    "DELETING RECREATING ABANDONING RESTARTING FAILED ERROR RUNNING_WITH_ERROR NODE_FAIL TIMEOUT "
    "CANCELLED BOOT_FAIL DEADLINE",
}
PHASES = {word: phase for phase, words in WORDS.items() for word in words.split()}


def phase_of(words: Sequence[str], hosts: int) -> Phase:
    """Return the phase of what a cluster says, one word or more for each part.

    Args:
      words: as printed by `SCRIPT state`; none where there is nothing.
      hosts: machines that belong together; as many must be RUNNING where any are counted.
    """
    if not words:
        return Phase.GONE
    worst = max(PHASES.get(word, Phase.UNKNOWN) for word in words)
    counted = "GROUP" in words and worst <= Phase.STARTING
    if counted and words.count("RUNNING") == hosts:
        return max(PHASES[word] for word in words if word != "GROUP")
    return worst


class Cluster:
    """The script of one kind of cluster, with the variables of one run.

    Args:
      kind: of KINDS. variables: see `variables_of`. limit: seconds that a call may take.
    """

    def __init__(self, kind: str, variables: Mapping[str, str], limit: float):
        self.kind, self.variables, self.limit = kind, dict(variables), limit
        self.script = LAUNCH / f"{kind}.sh"
        self.hosts = int(variables["HOSTS"])

    def call(self, verb: str, limit: float | None = None) -> tuple[int, str, str]:
        """Run a verb; return its exit status (TOO_LONG: it was ended), stdout and stderr."""
        return run_apart(
            ["bash", str(self.script), verb],
            self.limit if limit is None else limit,
            os.environ | self.variables,
        )

    def show(self, verb: str) -> int:
        """Run a verb with the terminal's own input and output; return its exit status."""
        command = ["bash", str(self.script), verb]
        return subprocess.call(command, env=os.environ | self.variables)

    def phase(self) -> tuple[Phase, str]:
        """Return what the machines are, and the cluster's words for it."""
        status, out, error = self.call("state", POLL_LIMIT_SECONDS)
        if status:
            return Phase.UNKNOWN, last_line(error)
        return phase_of(out.split(), self.hosts), " ".join(dict.fromkeys(out.split())) or "nothing"

    def exits(self) -> list[str]:
        """Return for each host the exit status of the command, or `running`; [] is not known."""
        status, out, _ = self.call("exits", POLL_LIMIT_SECONDS)
        return [] if status else codes_of(self.kind, out.splitlines(), self.hosts)


def codes_of(kind: str, lines: Sequence[str], hosts: int) -> list[str]:
    """Return what `SCRIPT exits` printed as one exit status, or `running`, for each host."""
    words = [line.strip() for line in lines if line.strip()]
    if kind not in ("gke", "slurm"):  # ssh may say more than the host
        return [word for word in words if re.fullmatch(r"\d{1,3}|running", word)]
    if not words:
        return []
    if kind == "gke":  # pods that ended are started again, until the JobSet says that it has ended
        job, *pods = words
        if job.endswith(" Completed"):
            return ["0"] * hosts
        failed = [code for code in pods if code != "0"]
        return (failed or ["1"]) if job.endswith(" Failed") else ["running"]
    state, _, code = words[-1].partition("|")  # COMPLETED|0:0, CANCELLED by 1000|0:15
    if state == "COMPLETED":
        return ["0"] * hosts
    if phase_of([state.split()[0]], 1) in (Phase.READY, Phase.QUEUED, Phase.STARTING):
        return ["running"]
    status = code.partition(":")[0]
    return [status if status.strip("0") else "1"]


def run_apart(
    command: Sequence[str], limit: float, environment: Mapping[str, str] | None = None
) -> tuple[int, str, str]:
    """Run a command in a session of its own, which a Ctrl-C does not reach; kill it at the end."""
    child = subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        out, error = child.communicate(timeout=max(limit, 0.01))
        return child.returncode, out, error
    except subprocess.TimeoutExpired:
        return TOO_LONG, "", f"{' '.join(command[-2:])} took more than {limit:.0f} s"
    finally:
        if child.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            child.communicate()


def last_step(workdir: str) -> int | None:
    """Return the step of the newest committed checkpoint; 0: there is none, None: not known."""
    pattern = "checkpoints/*/commit_success.txt"
    if workdir.startswith("gs://"):
        command = ["gcloud", "storage", "ls", f"{workdir.rstrip('/')}/{pattern}"]
    elif workdir.startswith("s3://"):
        command = ["aws", "s3", "ls", "--recursive", f"{workdir.rstrip('/')}/checkpoints/"]
    else:
        found = [str(path) for path in pathlib.Path(workdir).glob(pattern)]
        return newest(found)
    try:
        status, out, error = run_apart(command, POLL_LIMIT_SECONDS)
    except OSError:
        return None
    if status and not (re.search("matched no objects", error) or not (out + error).strip()):
        return None
    return newest(out.split())


def newest(paths: Sequence[str]) -> int:
    """Return the highest step among paths of commit files; 0 for none."""
    steps = (re.search(r"checkpoints/(\d+)/commit_success\.txt$", path) for path in paths)
    return max((int(step[1]) for step in steps if step), default=0)


def last_line(text: str) -> str:
    """Return the last line of an output that has words in it."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else "it said nothing"


def check_programs(kind: str, workdir: str) -> None:
    """Raise ValueError where a program that the cluster or the run's folder needs is not here."""
    needed = {"gke": ("gcloud", "kubectl"), "slurm": ("sbatch",)}.get(kind, ("gcloud",))
    stores = {"gs": "gcloud", "s3": "aws"}
    store = stores.get(workdir.partition("://")[0]) if "://" in workdir else None
    for name in dict.fromkeys((*needed, *filter(None, [store]))):
        if shutil.which(name) is None:
            raise ValueError(
                f"{name} must be installed here and on PATH: --on={kind} or the folder of the run "
                "needs it."
            )


def git(*words: str) -> str:
    """Return what git says of the clone that this file is in; "" where it says nothing."""
    with contextlib.suppress(OSError):
        status, out, _ = run_apart(["git", "-C", str(LAUNCH), *words], POLL_LIMIT_SECONDS)
        return "" if status else out.strip()
    return ""


def variables_of(options: argparse.Namespace) -> dict[str, str]:
    """Return the variables that scripts are written with.

    Args:
      options: of the command line, see `watch.make_parser`.

    Raises:
      ValueError: an option that this kind of cluster needs is missing or wrong.
    """
    needed = {"gke": ("type", "zone", "cluster", "image"), "slurm": ()}
    for name in needed.get(options.on, ("type", "zone")):
        if not getattr(options, name):
            raise ValueError(f"--{name} must be given with --on={options.on}.")
    if options.on == "slurm":
        types = {"HOSTS": str(options.hosts), "EXTRA": "cuda12"}
    else:
        types = machine(options.on, options.type)
    spot = not options.on_demand
    seconds = math.ceil(3600 * (options.max_hours or 24))
    return types | {
        "NAME": options.name,
        "ZONE": options.zone,
        "REGION": options.zone.rpartition("-")[0],
        "CLUSTER": options.cluster,
        "IMAGE": options.image,
        "SBATCH": options.sbatch,
        "SPOT": "1" if spot else "",
        "SECONDS_PAID": str(seconds),
        "MINUTES_PAID": str(math.ceil(seconds / 60)),
        "SECONDS_WAITED": str(math.ceil(3600 * options.wait_hours)),
        "REPOSITORY": options.repository or git("remote", "get-url", "origin"),
        "REVISION": options.revision or git("rev-parse", "HEAD"),
        "WORKDIR": options.workdir,
        "PORT": str(options.port),
        "COMMAND": shlex.join(options.command),
        "COMMAND_JSON": json.dumps(shlex.join(options.command)),
        "LAUNCH": str(LAUNCH),
    }
