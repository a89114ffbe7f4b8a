"""Which processes make a run together: by its config, or by the scheduler that started them.

The first of these that is there gives what the config leaves open:

    variables of JAX      JAX_COORDINATOR_ADDRESS, JAX_NUM_PROCESSES, JAX_PROCESS_ID
    TPU slices on GKE     TPU_WORKER_HOSTNAMES, TPU_WORKER_ID; several slices: MEGASCALE_*
    an Indexed Job        JOB_COMPLETION_INDEX, with NUM_WORKERS beside it
    Slurm                 SLURM_STEP_NODELIST, SLURM_PROCID, SLURM_NTASKS, SLURM_JOB_ID
    metadata of a TPU VM  worker-network-endpoints, agent-worker-number, tpu-env: of queued
                          resources and of managed instance groups

JAX_COORDINATOR_ADDRESS (host:port) and JAX_COORDINATOR_PORT change the address of any of them.
"""

import dataclasses
import glob
import os
import re
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence

# JAX's own since 0.8.1. Networks that were made for older versions open 8476 instead.
PORT, OLD_PORT = 8482, 8476
TPUS = ("/dev/accel[0-9]*", "/dev/vfio/[0-9]*")
_METADATA_SECONDS = 3.0
# [v6]:port, host:port or v6 alone.
_ADDRESS = re.compile(
    r"\[([^\]]+)\](?::(\d+))?|([^:]*)(?::(\d+))?|([0-9a-f]*:[0-9a-f]*:[0-9a-f:]*)", re.IGNORECASE
)
Lookup = Callable[[str], str]  # name of a variable or attribute -> its text, "" where it is not set


@dataclasses.dataclass(frozen=True)
class Cluster:
    """The processes of a run.

    Attributes:
      host, port: where process 0 is reached. count: of processes. index: of this one, from 0.
      hosts: the host of each process, as far as the scheduler names them, else ().
      devices: numbers of this process's devices, where several processes share a host; None: all.
      why: where this comes from, for people.
    """

    host: str
    port: int
    count: int
    index: int
    hosts: tuple[str, ...] = ()
    devices: tuple[int, ...] | None = None
    why: str = "as requested"

    @property
    def address(self) -> str:
        """host:port of process 0."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def name(self, index: int) -> str:
        """Name a process for people."""
        return f"process {index}" + (f" ({self.hosts[index]})" if self.hosts else "")


@dataclasses.dataclass(frozen=True)
class Given:
    """What a config says of the processes. "", 0 and -1 leave it to the scheduler.

    Attributes:
      coordinator: host, or host:port, of process 0. num_processes: of the run.
      process_id: of this process.
    """

    coordinator: str = ""
    num_processes: int = 0
    process_id: int = -1


ASK_SCHEDULER = Given()


def find(
    given: Given = ASK_SCHEDULER,
    environment: Mapping[str, str] | None = None,
    metadata: Lookup | None = None,
) -> Cluster | None:
    """Return the processes that this one belongs to; None where nothing names them.

    Args:
      environment: variables; None takes those of this process.
      metadata: attributes of the virtual machine; None asks its server, where there are TPUs.

    Raises:
      ValueError: one of address, number and index is missing, or they contradict each other.
    """
    environment = os.environ if environment is None else environment
    scheduled = next((c for c in _scheduled(environment, metadata) if c is not None), None)
    variable = environment.get("JAX_COORDINATOR_ADDRESS", "")
    host, port = _split(given.coordinator or variable)
    count = given.num_processes or number(environment, "JAX_NUM_PROCESSES") or 0
    index: int | None = given.process_id
    if index < 0:
        index = number(environment, "JAX_PROCESS_ID")
    if scheduled is None and not (host or count or index is not None):
        return None
    base = scheduled or Cluster("", 0, 0, -1)
    found = dataclasses.replace(
        base,
        host=host or base.host,
        port=port or number(environment, "JAX_COORDINATOR_PORT") or base.port or PORT,
        count=count or base.count,
        index=base.index if index is None else index,
    )
    if len(found.hosts) != found.count:
        found = dataclasses.replace(found, hosts=())
    _check(found)
    return found


def _check(found: Cluster) -> None:
    lacks = [
        text
        for text, there in (
            ("the address of process 0 (config.mesh.coordinator or JAX_COORDINATOR_ADDRESS)",
             found.host),
            ("their number (config.mesh.num_processes or JAX_NUM_PROCESSES)", found.count > 0),
            ("the index of this one (config.mesh.process_id or JAX_PROCESS_ID)", found.index >= 0),
        )
        if not there
    ]  # fmt: skip
    if lacks:
        raise ValueError(f"several processes need {' and '.join(lacks)}; got none ({found.why}).")
    if found.index >= found.count:
        raise ValueError(
            f"the index of a process must be in 0 .. {found.count - 1}; got {found.index} "
            f"({found.why})."
        )
    if not 0 < found.port < 1 << 16:
        raise ValueError(f"the port of process 0 must be in 1 .. 65535; got {found.port}.")


def _scheduled(environment: Mapping[str, str], metadata: Lookup | None):
    yield _gke(environment)
    yield _indexed_job(environment)
    yield _slurm(environment)
    if metadata is not None:
        yield _machine(metadata)
    elif any(map(glob.glob, TPUS)) and "TPU_SKIP_MDS_QUERY" not in environment:
        yield _machine(_ask_metadata(environment))


def _gke(environment: Mapping[str, str]) -> Cluster | None:
    names = environment.get("TPU_PROCESS_ADDRESSES") or environment.get("TPU_WORKER_HOSTNAMES", "")
    index = number(environment, "TPU_WORKER_ID")
    if not names or index is None:
        return None
    hosts = [_split(name)[0] for name in names.split(",") if name]
    return _slices(hosts, index, lambda name: environment.get(name, ""), "TPU_WORKER_HOSTNAMES")


def _slices(hosts: Sequence[str], index: int, lookup: Lookup, why: str) -> Cluster:
    """One of several slices, each with as many hosts, or the only one."""
    variables = {"MEGASCALE_NUM_SLICES": "1", "MEGASCALE_SLICE_ID": "0"}
    found = {name: lookup(name) or usual for name, usual in variables.items()}
    slices, which = (number(found, name) or 0 for name in variables)
    if not 0 <= which < slices:
        raise ValueError(
            f"MEGASCALE_SLICE_ID must be in 0 .. {slices - 1}; got {which}. Unset what an "
            "earlier job left of MEGASCALE_*."
        )
    if slices == 1:
        return Cluster(hosts[0], PORT, len(hosts), index, tuple(hosts), why=why)
    first = _split(lookup("MEGASCALE_COORDINATOR_ADDRESS"))[0]
    place = which * len(hosts) + index
    return Cluster(first, PORT, slices * len(hosts), place, why=f"{why} and MEGASCALE_*")


def _indexed_job(environment: Mapping[str, str]) -> Cluster | None:
    index = number(environment, "JOB_COMPLETION_INDEX")
    if index is None:
        return None
    count = number(environment, "NUM_WORKERS") or 0
    return Cluster("", PORT, count, index, why="JOB_COMPLETION_INDEX")


def _slurm(environment: Mapping[str, str]) -> Cluster | None:
    index = number(environment, "SLURM_PROCID")
    nodes = environment.get("SLURM_STEP_NODELIST") or environment.get("SLURM_NODELIST", "")
    count = number(environment, "SLURM_STEP_NUM_TASKS") or number(environment, "SLURM_NTASKS")
    if index is None or not nodes or not count:
        return None
    hosts = parse_nodes(nodes)
    here = number(environment, "SLURM_LOCALID") or 0
    several = count > len(hosts)
    visible = environment.get("CUDA_VISIBLE_DEVICES", "")
    # Slurm may show each task its own device alone, whose number is 0 then.
    devices = (here,) if several and (not visible or "," in visible) else None
    tasks = _tasks(environment.get("SLURM_STEP_TASKS_PER_NODE", ""))
    if not tasks and count % len(hosts) == 0:
        tasks = [count // len(hosts)] * len(hosts)
    of_tasks = [host for host, n in zip(hosts, tasks, strict=False) for _ in range(n)]
    job = number(environment, "SLURM_JOB_ID") or 0
    port = 61440 + job % 4096  # jobs that share a host keep apart; JAX takes the same
    return Cluster(hosts[0], port, count, index, tuple(of_tasks), devices, "SLURM_PROCID")


def parse_nodes(text: str) -> list[str]:
    """Read a list of Slurm's nodes: "gpu1", "a,b", "node[001-003,7],login".

    Raises:
      ValueError: it is no such text.
    """
    hosts: list[str] = []
    for item in re.split(r",(?![^\[]*\])", text):  # not at commas within brackets
        match = re.fullmatch(r"([^\[\]]*)(?:\[(\d+(?:[,-]\d+)*)\])?([^\[\]]*)", item)
        if match is None or not item:
            raise ValueError(f"SLURM_STEP_NODELIST must name hosts as node[1-3,7]; got {text!r}.")
        before, numbers, after = match.groups()
        for part in (numbers or "").split(","):
            first, _, last = part.partition("-")
            span = range(int(first), int(last or first) + 1) if first else [""]
            hosts += [f"{before}{str(n).zfill(len(first))}{after}" for n in span]
    return hosts


def _tasks(text: str) -> list[int]:
    """Tasks of each node as Slurm counts them: "2(x3),1" is 2, 2, 2, 1."""
    pairs = re.findall(r"(\d+)(?:\(x(\d+)\))?", text)
    return [int(tasks) for tasks, times in pairs for _ in range(int(times or 1))]


def _machine(metadata: Lookup) -> Cluster | None:
    index, endpoints = metadata("agent-worker-number"), metadata("worker-network-endpoints")
    if not index.isdecimal() or not endpoints:
        return None
    # Of a managed group: names of hosts. Of the older kind: name:number:address.
    hosts = [endpoint.split(":")[-1] for endpoint in endpoints.split(",")]
    rows = dict(re.findall(r"^(\w+):\s*'?([^'\n]*)'?\s*$", metadata("tpu-env"), re.MULTILINE))
    return _slices(hosts, int(index), lambda name: rows.get(name, ""), "metadata of the TPU VM")


def _ask_metadata(environment: Mapping[str, str]) -> Lookup:
    server = environment.get("GCE_METADATA_IP", "metadata.google.internal")
    open_url = urllib.request.build_opener(urllib.request.ProxyHandler({})).open

    def ask(name: str) -> str:
        url = f"http://{server}/computeMetadata/v1/instance/attributes/{name}"
        request = urllib.request.Request(url, headers={"Metadata-Flavor": "Google"})
        try:
            with open_url(request, timeout=_METADATA_SECONDS) as answer:
                return answer.read(1 << 20).decode("utf-8", "replace").strip()
        except OSError:  # no such attribute, or no such server
            return ""

    return ask


def _split(address: str) -> tuple[str, int]:
    """Host and port of "host:port", "[v6]:port" or "host"; 0 where no port is named."""
    match = _ADDRESS.fullmatch(address)
    if match is None:
        raise ValueError(f"an address must be host or host:port; got {address!r}.")
    host = match[1] or match[3] or match[5] or ""
    return host, int(match[2] or match[4] or 0)


def number(environment: Mapping[str, str], name: str) -> int | None:
    """Return the number that a variable holds; None where it is not set or empty."""
    text = environment.get(name, "").strip()
    if text and not text.isdecimal():
        raise ValueError(f"The variable {name} must be a number; got {text!r}.")
    return int(text) if text else None
