"""Training by two processes: they leave together, and end as if nothing had stopped them."""

import os
import signal
import socket
import time

import pytest

from miro_jax.train import components
from tests import training

pytestmark = pytest.mark.slow

DEVICES, HEARTBEAT = 2, 20
STEPS, SAVE = 12, 6


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return training.make_records(tmp_path_factory)


@pytest.fixture(scope="module")
def parts():
    return components.build_components(training.small())


def flags(count):
    return f"--xla_force_host_platform_device_count={count}"


def arguments(records, workdir, distributed=True):
    return (
        *training.COMMAND,
        f"--workdir={workdir}",
        f"--config.data.records={records}",
        f"--config.train.num_steps={STEPS}",
        f"--config.train.checkpoint_every_steps={SAVE}",
        "--config.train.sample_every_steps=0",
        "--noconfig.train.report",
        f"--config.mesh.distributed={distributed}",
        f"--config.mesh.heartbeat_seconds={HEARTBEAT}.0",
    )


class Pair:
    """Two processes that find each other as the tasks of a Slurm step do."""

    def __init__(self, folder):
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.printed = [folder / f"stderr-{index}" for index in range(2)]
        self.launchers = [
            training.Launcher(
                XLA_FLAGS=flags(DEVICES),
                JAX_COORDINATOR_ADDRESS=f"127.0.0.1:{port}",
                SLURM_JOB_ID="1",
                SLURM_STEP_NODELIST="localhost",
                SLURM_NTASKS="2",
                SLURM_STEP_NUM_TASKS="2",
                SLURM_PROCID=str(index),
                SLURM_LOCALID=str(index),
                MIRO_TEST_STDERR=str(printed),
            )
            for index, printed in enumerate(self.printed)
        ]

    def start(self, *arguments):
        """Start both; returns their process ids."""
        for printed in self.printed:
            printed.write_text("")
        return [launcher.start(*arguments) for launcher in self.launchers]

    def wait(self):
        """The exit statuses of both."""
        return [launcher.wait() for launcher in self.launchers]

    def lines(self, index, word):
        """The lines of a process's stderr that contain a word."""
        return [line for line in self.printed[index].read_text().splitlines() if word in line]


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    pair = Pair(tmp_path_factory.mktemp("pair"))
    yield pair
    for launcher in pair.launchers:
        launcher.close()


@pytest.fixture(scope="module")
def together(pair, records, tmp_path_factory):
    """A run of both to the end."""
    workdir = tmp_path_factory.mktemp("together")
    pair.start(*arguments(records, workdir))
    assert pair.wait() == [0, 0]
    return workdir


def test_they_leave_together_and_resume_to_the_same_bits(pair, together, records, parts, tmp_path):
    # SIGTERM to one of them: both save the same step and leave.
    pids = pair.start(*arguments(records, tmp_path))
    assert training.wait_until(lambda: training.last_step(tmp_path) >= 2, pids[0])
    slowdown = training.slowdown()
    os.kill(pids[1], signal.SIGTERM)
    sent = time.monotonic()
    assert pair.wait() == [143, 143]
    seconds = time.monotonic() - sent
    step = training.newest(tmp_path, parts)[0]
    print(f"SIGTERM to one: both left after {seconds:.1f} s with step {step} saved")
    assert 2 <= step == training.last_step(tmp_path) < STEPS and seconds < 15 * slowdown
    (line,) = pair.lines(0, "SIGTERM")
    assert f"after step {step};" in line and pair.lines(1, "error") == []

    # SIGKILL to one of them: the other one leaves, too, with one line.
    pids = pair.start(*arguments(records, tmp_path))
    assert training.wait_until(lambda: training.last_step(tmp_path) >= step + 2, pids[0])
    os.kill(pids[1], signal.SIGKILL)
    sent = time.monotonic()
    assert pair.wait() == [1, -signal.SIGKILL]
    seconds = time.monotonic() - sent
    print(f"SIGKILL to one: the other left after {seconds:.1f} s")
    assert seconds < HEARTBEAT + 5 * slowdown
    (line,) = pair.lines(0, "error")
    assert "process" in line and "start all processes again: the run resumes" in line

    # Both again, to the end.
    pair.start(*arguments(records, tmp_path))
    assert pair.wait() == [0, 0]
    last, arrays, data_state = training.newest(tmp_path, parts)
    expected_last, expected, expected_data_state = training.newest(together, parts)
    assert last == expected_last == STEPS and data_state == expected_data_state
    training.assert_same_arrays(arrays, expected)
    assert training.without_times(tmp_path) == training.without_times(together)
