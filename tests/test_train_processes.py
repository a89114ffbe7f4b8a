"""Training by two processes: they leave together, and end like one process or without a stop."""

import os
import signal
import socket
import time

import pytest

from miro_jax.train import components
from tests import training

pytestmark = pytest.mark.slow

DEVICES, HEARTBEAT = 2, 5
STEPS = 60


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
        "--config.train.checkpoint_every_steps=10",
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
        self.said = [folder / f"stderr-{index}" for index in range(2)]
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
                MIRO_TEST_STDERR=str(said),
            )
            for index, said in enumerate(self.said)
        ]

    def start(self, *arguments):
        """Start both; returns their process ids."""
        for said in self.said:
            said.write_text("")
        return [launcher.start(*arguments) for launcher in self.launchers]

    def wait(self):
        """The exit statuses of both."""
        return [launcher.wait() for launcher in self.launchers]

    def errors(self, index):
        """The error lines of a process."""
        lines = self.said[index].read_text().splitlines()
        return [line for line in lines if line.startswith("miro_jax: ")]


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


def assert_like(workdir, expected, parts):
    step, arrays, data_state = training.newest(workdir, parts)
    expected_step, expected_arrays, expected_data_state = training.newest(expected, parts)
    assert step == expected_step == STEPS and data_state == expected_data_state
    training.assert_same_arrays(arrays, expected_arrays)
    assert training.without_times(workdir) == training.without_times(expected)


def test_two_processes_with_two_devices_equal_one_with_four(together, records, parts, tmp_path):
    launcher = training.Launcher(XLA_FLAGS=flags(2 * DEVICES))
    assert launcher(*arguments(records, tmp_path, distributed=False)) == 0
    launcher.close()
    assert_like(tmp_path, together, parts)


def test_processes_leave_together_and_resume_like_an_uninterrupted_run(
    pair, together, records, parts, tmp_path
):
    # SIGTERM to one of them: both save the same step and leave.
    pids = pair.start(*arguments(records, tmp_path))
    assert training.wait_until(lambda: training.last_step(tmp_path) >= 3, pids[0])
    os.kill(pids[1], signal.SIGTERM)
    sent = time.monotonic()
    assert pair.wait() == [143, 143]
    seconds = time.monotonic() - sent
    step = training.newest(tmp_path, parts)[0]
    print(f"SIGTERM to one: both left after {seconds:.1f} s with step {step} saved")
    assert 3 <= step == training.last_step(tmp_path) < STEPS and seconds < 15
    assert len(pair.errors(0)) == 1 and f"after step {step};" in pair.errors(0)[0]
    # SIGKILL to one of them: the other one leaves, too, with one line.
    pids = pair.start(*arguments(records, tmp_path))
    assert training.wait_until(lambda: training.last_step(tmp_path) >= step + 3, pids[0])
    os.kill(pids[1], signal.SIGKILL)
    sent = time.monotonic()
    assert pair.wait() == [1, -signal.SIGKILL]
    seconds = time.monotonic() - sent
    print(f"SIGKILL to one: the other left after {seconds:.1f} s")
    assert seconds < HEARTBEAT + 5
    (line,) = pair.errors(0)
    assert "process 1 of this run has not answered for 5 s; start all processes again" in line
    # Both again, to the end.
    pair.start(*arguments(records, tmp_path))
    assert pair.wait() == [0, 0]
    assert_like(tmp_path, together, parts)
