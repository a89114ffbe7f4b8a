"""Runs of the smallest size over a small set of records, for the tests of the training loop.

Runs that are to be killed are forked by a process that has everything imported already: at this
size imports take longer than the run. `Launcher` talks to it; this file, called as a script, is it.
"""

import json
import os
import pathlib
import select
import socket
import subprocess
import sys
import time
from unittest import mock

import jax
import numpy as np
from jax._src import compiler, distributed

from configs import base as configs
from miro_jax import annotate
from miro_jax.models import sharding
from miro_jax.report.metric_lines import read_metrics
from miro_jax.train import components, loop
from miro_jax.train.checkpoint import Checkpoints
from miro_jax.train.state import leaf_name
from tests import absent, compiling

ROOT = pathlib.Path(__file__).parent.parent
TINY = f"--config={ROOT / 'configs' / 'base.py'}:tiny"
# A network with fewer parts than that of `tiny`: tracing it is what short runs spend their time on.
SMALL = {
    "data.train_rewards": ("count", "beauty"),
    "model.rin.condition_layers": 0,
    "model.rin.num_registers": 1,
    "train.checkpoint_every_seconds": 0.0,  # on a busy machine a minute may pass anywhere
}
COMMAND = (TINY, *(f"--config.{key}={value!r}" for key, value in SMALL.items()))
# Of a line of metrics: what depends on the clock.
OF_TIME = (
    "images_per_second",
    "input_share",
    "checkpoint_share",
    "evaluation_share",
    "compilation_seconds",
    "compiler_seconds",
)
PATIENCE = 600  # seconds until something counts as hanging, on the busiest machine


def tiny(**changes):
    """The config `tiny` with some values changed: train__num_steps=4 is train.num_steps = 4."""
    config = configs.get_config("tiny")
    config.train.checkpoint_every_seconds = 0.0
    config.update_from_flattened_dict({k.replace("__", "."): v for k, v in changes.items()})
    return config


def small(**changes):
    """The config of COMMAND with some values changed: train__num_steps=4 is train.num_steps = 4."""
    config = configs.get_config("tiny")
    changes = {key.replace("__", "."): value for key, value in changes.items()}
    config.update_from_flattened_dict(SMALL | changes)
    return config


def make_records(tmp_path_factory) -> pathlib.Path:
    """Folder of 64 annotated pictures in two shards, made once for all test files of a session."""
    folder = tmp_path_factory.getbasetemp() / "records-of-tiny"
    small = tiny(source__shapes__num_images=64, source__shapes__images_per_shard=32)
    annotate.run(small, folder)  # returns at once where that is done
    return folder / "records"


def newest(
    workdir: pathlib.Path, parts: components.Components
) -> tuple[int, dict[str, np.ndarray], dict]:
    """Step, all arrays by name, and data state of the newest checkpoint; nothing is changed."""
    folder = pathlib.Path(workdir) / "checkpoints"
    with sharding.use_mesh(parts.mesh), Checkpoints(folder, read_only=True) as checkpoints:
        last = checkpoints.steps()[-1]
        step, state, data_state = checkpoints.restore_latest(parts.abstract, step=last)
    pairs, _ = jax.tree_util.tree_flatten_with_path(jax.device_get(state))
    return step, {leaf_name(path): leaf for path, leaf in pairs}, data_state


def assert_same_arrays(found: dict[str, np.ndarray], expected: dict[str, np.ndarray]) -> None:
    """Assert that two sets of named arrays are equal bit for bit."""
    assert found.keys() == expected.keys() and len(found) > 100
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        assert found[name].tobytes() == array.tobytes(), name


def without_times(workdir: pathlib.Path) -> list[dict]:
    """The lines of metrics.jsonl, each as it stands, without what depends on the clock."""
    text = (pathlib.Path(workdir) / "metrics.jsonl").read_text()
    lines = [json.loads(line) for line in text.splitlines()]
    return [{k: v for k, v in line.items() if k not in OF_TIME} for line in lines]


def last_step(workdir: pathlib.Path) -> int:
    """The newest step of a run's metrics, 0 where there is none."""
    if not (pathlib.Path(workdir) / "metrics.jsonl").exists():
        return 0
    return max((line["step"] for line in read_metrics(workdir)), default=0)


def slowdown() -> float:
    """How many times longer work takes than on an idle machine, from a tenth of a second of it."""
    begin, used = time.monotonic(), time.process_time()
    while time.process_time() - used < 0.1:
        pass
    return max((time.monotonic() - begin) / 0.1, 1.0)


class Launcher:
    """Starts runs of `miro_jax.main` on one device, each a process of its own.

    Args:
      environment: of the runs, beside that of the tests.
    """

    def __init__(self, **environment: str):
        self._server = subprocess.Popen(
            [sys.executable, __file__],
            env=os.environ
            | {"XLA_FLAGS": compiling.xla_flags(1), "PYTHONPATH": str(ROOT)}
            | environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def start(self, *arguments: str) -> int:
        """Start a run; returns its process id. `wait` must follow before the next start."""
        self._server.stdin.write(json.dumps([str(a) for a in arguments]) + "\n")
        self._server.stdin.flush()
        return int(self._server.stdout.readline())

    def wait(self) -> int:
        """Return the exit status of the run; -n where signal n ended it."""
        if not select.select([self._server.stdout], [], [], PATIENCE)[0]:
            raise TimeoutError(f"the run did not end within {PATIENCE} seconds")
        return int(self._server.stdout.readline())

    def __call__(self, *arguments: str) -> int:
        """Run to the end; returns the exit status."""
        self.start(*arguments)
        return self.wait()

    def close(self):
        self._server.stdin.close()
        self._server.wait(PATIENCE)


class Processes:
    """Processes of one run that find each other as the tasks of a Slurm step do.

    Args:
      folder: of what they print, and of the records that each one reads.
      count: of processes. devices: of each. environment: of all, beside that.
    """

    def __init__(self, folder: pathlib.Path, count: int = 2, devices: int = 2, **environment: str):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.printed = [folder / f"stderr-{index}" for index in range(count)]
        self.read = [folder / f"read-{index}.jsonl" for index in range(count)]
        self.launchers = [
            Launcher(
                XLA_FLAGS=compiling.xla_flags(devices),
                JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{self.port}",
                SLURM_JOB_ID="1",
                SLURM_STEP_NODELIST="localhost",
                SLURM_NTASKS=str(count),
                SLURM_STEP_NUM_TASKS=str(count),
                SLURM_PROCID=str(index),
                SLURM_LOCALID=str(index),
                MIRO_TEST_STDERR=str(self.printed[index]),
                MIRO_TEST_READ=str(self.read[index]),
                **environment,
            )
            for index in range(count)
        ]

    def start(self, *arguments: str, of_second: tuple = ()) -> list[int]:
        """Start all, the second one with further arguments; returns their process ids."""
        for printed in self.printed:
            printed.write_text("")
        more = [()] * len(self.launchers)
        more[1] = of_second
        return [
            launcher.start(*arguments, *extra)
            for launcher, extra in zip(self.launchers, more, strict=True)
        ]

    def wait(self) -> list[int]:
        """The exit statuses of all."""
        return [launcher.wait() for launcher in self.launchers]

    def lines(self, index: int, word: str) -> list[str]:
        """The lines of a process's stderr that contain a word."""
        return [line for line in self.printed[index].read_text().splitlines() if word in line]

    def close(self) -> None:
        for launcher in self.launchers:
            launcher.close()


def is_running(pid: int) -> bool:
    """Tell whether a process is there and no zombie."""
    try:
        stat = pathlib.Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def wait_until(condition, pid: int) -> bool:
    """Wait for a condition or the end of a process; returns whether the process still runs."""
    deadline = time.monotonic() + PATIENCE
    while is_running(pid):
        if condition():
            return True
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} did nothing for {PATIENCE} seconds")
        time.sleep(0.005)
    return False


def _serve() -> None:
    """Fork a run for each line of arguments; answer with its process id, then its exit status."""
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            if said := os.environ.get("MIRO_TEST_STDERR"):
                os.dup2(os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644), 2)
            os.dup2(2, 1)  # nothing of a run may mix with the answers
            _keep_programs_of_all_processes()
            if read := os.environ.get("MIRO_TEST_READ"):
                _write_down_records(pathlib.Path(read))
            sys.argv[1:] = json.loads(line)
            sys.exit(entry.main())
        print(pid, flush=True)
        print(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]), flush=True)


def _keep_programs_of_all_processes() -> None:
    """On CPUs what is compiled is each process's own, and JAX keeps that of process 0 alone."""
    keep = compiler._cache_write

    def keep_ours(*arguments):
        with mock.patch.object(distributed.global_state, "process_id", 0):
            keep(*arguments)

    compiler._cache_write = keep_ours


def _write_down_records(path: pathlib.Path) -> None:
    """Append a line for each batch of this process: [end in the stream, records]."""
    take = loop.Loop._next_batch

    def take_and_write(self):
        arrays, facts = take(self)
        end = self.data.get_state()["global_next_index"]
        with path.open("a") as file:
            file.write(json.dumps([end, facts["index"].tolist()]) + "\n")
        return arrays, facts

    loop.Loop._next_batch = take_and_write


if __name__ == "__main__":
    absent.hide("torch")  # tensorboardX imports torch where it is, which takes seconds
    from miro_jax import main as entry

    _serve()
