"""Training by several processes: as by one, and they leave together.

Two processes of a device each are bit for bit one process of two: of two summands there is one sum.
Bits of more devices differ by the order in which their sums are rounded: within a process XLA adds
one after the other, between processes Gloo goes round a ring, and each part of an array begins at
another device of it. Then the first step is the same, later ones agree to some 1e-7. But for the
bias of a key's norm: a softmax does not see what is added to all of its logits, so in exact
arithmetic its gradient is 0, and Adam makes steps of full size of what rounding leaves of it. These
are compared with nothing.
"""

import os
import resource
import shutil
import signal
import threading
import time

import numpy as np
import pytest

from miro_jax import annotate
from miro_jax.evaluate.run import read_entries
from miro_jax.train import components
from tests import compiling, killing_processes, training
from tests.test_extend_stage import OWN

pytestmark = pytest.mark.slow

DEVICES, HEARTBEAT = 1, 20
STEPS, SAVE = 12, 6
ROUNDING = 1e-5  # as for other changes of a mesh; 1e-6 was seen


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    return training.make_records(tmp_path_factory)


@pytest.fixture(scope="module")
def parts():
    return components.build_components(training.small())


def arguments(records, workdir, distributed=True):
    return (
        *training.COMMAND,
        f"--workdir={workdir}",
        f"--config.data.records={records}",
        f"--config.train.num_steps={STEPS}",
        f"--config.train.checkpoint_every_steps={SAVE}",
        "--config.train.sample_every_steps=0",
        "--noconfig.train.report",
        "--config.data.caption_buckets=(8,)",  # half of the batches fit, of a process more
        f"--config.mesh.distributed={distributed}",
        f"--config.mesh.heartbeat_seconds={HEARTBEAT}.0",
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    pair = training.Processes(tmp_path_factory.mktemp("pair"), 2, DEVICES)
    yield pair
    pair.close()


@pytest.fixture(scope="module")
def together(pair, records, tmp_path_factory):
    """A run of both to the end."""
    workdir = tmp_path_factory.mktemp("together")
    pair.start(*arguments(records, workdir))
    assert pair.wait() == [0, 0]
    return workdir


@pytest.fixture(scope="module")
def alone(records, tmp_path_factory):
    """The same run by one process with all the devices, on the same mesh; and what starts it."""
    workdir = tmp_path_factory.mktemp("alone")
    launcher = training.Launcher(XLA_FLAGS=compiling.xla_flags(2 * DEVICES))
    assert launcher(*arguments(records, workdir, distributed=False)) == 0
    yield workdir, launcher
    launcher.close()


def assert_same_run(workdir, expected_workdir, parts):
    """Assert that two runs ended at the same numbers; see above."""
    step, arrays, data_state = training.newest(workdir, parts)
    expected_step, expected, expected_data_state = training.newest(expected_workdir, parts)
    assert step == expected_step == STEPS and data_state == expected_data_state
    assert arrays.keys() == expected.keys() and len(arrays) > 100
    for name, array in expected.items():
        if not name.endswith("k_norm/bias"):
            largest = np.max(np.abs(array), initial=0)
            np.testing.assert_allclose(
                arrays[name], array, rtol=0, atol=ROUNDING * largest, err_msg=name
            )
    lines, expected_lines = map(training.without_times, (workdir, expected_workdir))
    assert [line["step"] for line in lines] == [line["step"] for line in expected_lines]
    assert lines[0] == expected_lines[0]
    for line, one in zip(lines, expected_lines, strict=True):
        assert line["loss"] == pytest.approx(one["loss"], rel=ROUNDING)


def assert_same_bits(workdir, expected_workdir, parts):
    """Assert that two runs ended at the same bits, and that each step had the same metrics."""
    step, arrays, data_state = training.newest(workdir, parts)
    expected_step, expected, expected_data_state = training.newest(expected_workdir, parts)
    assert step == expected_step == STEPS and data_state == expected_data_state
    training.assert_same_arrays(arrays, expected)
    assert training.without_times(workdir) == training.without_times(expected_workdir)


def stopped_half_way(workdir, folder):
    """A copy of a finished run as its first checkpoint left it."""
    shutil.copytree(workdir, folder, dirs_exist_ok=True)
    shutil.rmtree(folder / "checkpoints" / str(STEPS))
    return folder


def test_two_processes_train_as_one_does(together, alone, parts):
    assert_same_bits(together, alone[0], parts)


def test_each_process_writes_a_log_of_its_own(together):
    assert sorted(path.name for path in together.glob("log*")) == ["log-1.txt", "log.txt"]
    for name in ("log-1.txt", "log.txt"):
        assert (together / name).read_text().count("Training from step 0 to step") == 1


def test_four_processes_resume_what_two_began(together, alone, records, parts, tmp_path):
    workdir = stopped_half_way(together, tmp_path / "run")
    four = training.Processes(tmp_path, 4, 1)
    try:
        four.start(*arguments(records, workdir))
        assert four.wait() == [0] * 4
    finally:
        four.close()
    assert_same_run(workdir, alone[0], parts)


def test_two_processes_preview_and_evaluate_as_one_does(pair, together, alone, records, tmp_path):
    both = stopped_half_way(together, tmp_path / "both")
    one = stopped_half_way(alone[0], tmp_path / "one")
    more = (
        f"--config.train.sample_every_steps={STEPS}",
        "--config.train.report=True",
        "--config.sample.images_per_prompt=1",
        "--config.sample.batch_size=4",
    )
    pair.start(*arguments(records, both), *more)
    assert pair.wait() == [0, 0], pair.lines(0, "error")
    assert alone[1](*arguments(records, one, distributed=False), *more) == 0
    image = f"samples/step-{STEPS:06d}.png"
    assert (both / image).read_bytes() == (one / image).read_bytes()
    found, expected = (read_entries(run / "evaluation.json")[-1] for run in (both, one))
    assert found["results"] == expected["results"] and len(found["results"]) > 2


def test_what_one_of_two_cannot_read_of_a_checkpoint_costs_that_checkpoint_alone(
    pair, together, records, parts, tmp_path
):
    workdir = shutil.copytree(together, tmp_path / "run")
    ours = (workdir / "checkpoints" / str(STEPS) / "params").glob("ocdbt.process_1/d/*")
    path = max(ours, key=lambda path: path.stat().st_size)
    data = bytearray(path.read_bytes())
    for position in range(0, len(data) // 2, 16):  # of parts that the second process alone reads
        data[position] ^= 1
    path.write_bytes(data)
    pair.start(*arguments(records, workdir))
    assert pair.wait() == [0, 0]
    assert_same_bits(workdir, together, parts)
    assert (workdir / "checkpoints" / f"unusable-{STEPS}").is_dir()
    for name in ("log.txt", "log-1.txt"):
        assert f"resuming from step {SAVE}" in (workdir / name).read_text()
    (line,) = (x for x in (workdir / "log.txt").read_text().splitlines() if "cannot be used" in x)
    assert "ValueError: process 1 (" in line and line.endswith(") cannot read it")


def test_who_is_missing_is_named_and_the_status_is_75(pair, records, tmp_path):
    limit = "--config.mesh.start_seconds=1.0"
    for printed in pair.printed:
        printed.write_text("")
    pair.launchers[0].start(*arguments(records, tmp_path), limit)
    assert pair.launchers[0].wait() == 75
    (line,) = pair.lines(0, "error")
    assert "missing are 1 of 2 processes: 1 (localhost)" in line
    pair.launchers[1].start(*arguments(records, tmp_path), limit)
    assert pair.launchers[1].wait() == 75
    (line,) = pair.lines(1, "error")
    assert "process 0 (localhost) must answer process 1 at 127.0.0.1" in line


def test_processes_of_different_configs_are_refused_by_the_name_of_the_key(pair, records, tmp_path):
    other = ("--config.optim.learning_rate=0.5",)
    pair.start(*arguments(records, tmp_path / "run"), of_second=other)
    assert pair.wait() == [2, 2]  # either trained, with its own rate, what no checkpoint fits
    for index in (0, 1):
        (line,) = pair.lines(index, "error")
        assert "all processes must have the same config.optim.learning_rate; process 1 (" in line
        assert "has 0.5, process 0" in line
    assert not (tmp_path / "run").exists()


def test_processes_of_different_records_are_refused(pair, records, tmp_path):
    sizes = {"source__shapes__num_images": 64, "source__shapes__images_per_shard": 32}
    annotate.run(training.tiny(source__shapes__seed=1, **sizes), tmp_path)
    other = (f"--config.data.records={tmp_path / 'records'}",)
    pair.start(*arguments(records, tmp_path / "run"), of_second=other)
    assert pair.wait() == [2, 2]
    for index in (0, 1):
        (line,) = pair.lines(index, "error")
        assert "all processes must have the same records; process 1 (" in line


def test_what_one_cannot_begin_with_ends_all_at_once(pair, records, tmp_path):
    (tmp_path / "file").write_text("")
    begin = time.monotonic()
    pair.start(*arguments(records, tmp_path / "run"), of_second=(f"--workdir={tmp_path / 'file'}",))
    assert pair.wait() == [1, 2]
    assert time.monotonic() - begin < HEARTBEAT * training.slowdown()
    (line,) = pair.lines(0, "error")
    assert "process 1 (" in line and "of this run failed, see what it printed" in line
    (line,) = pair.lines(1, "error")
    assert "--workdir must be a folder that can be written" in line


@pytest.mark.parametrize("stage", ["sample", "study"])
def test_a_stage_for_one_process_is_refused(pair, tmp_path, stage):
    (tmp_path / "checkpoints").mkdir()  # as of a trained run
    variant = "study.py:tiny" if stage == "study" else "base.py:tiny"
    config = (f"--config={training.ROOT / 'configs' / variant}", "--config.mesh.distributed=True")
    pair.start(*config, f"--workdir={tmp_path}", f"--stage={stage}")
    assert pair.wait() == [2, 2]
    for index in (0, 1):
        (line,) = pair.lines(index, "error")
        assert f"--stage={stage} is for one process" in line


@pytest.mark.parametrize("given, stage", [(True, "train"), (False, "train"), (True, "distil")])
def test_processes_that_see_other_folders_are_refused(
    pair, together, records, tmp_path, given, stage
):
    """Before process 0 makes records, which the other one would not find."""
    words = *arguments(records if given else "", tmp_path / "a"), f"--stage={stage}"
    words = *words, f"--config.distil.checkpoint={together}"
    pair.start(*words, of_second=(f"--workdir={tmp_path / 'b'}",))
    assert pair.wait() == [2, 2]  # of what each saves in its own folder no checkpoint is whole
    for index in (0, 1):
        (line,) = pair.lines(index, "error")
        assert "must see what process 0 writes into" in line and "need one --workdir" in line
    assert not {"records", "checkpoints"} & {path.name for path in (tmp_path / "a").iterdir()}


def test_one_process_resumes_what_two_began(together, alone, records, parts, tmp_path):
    workdir = stopped_half_way(together, tmp_path)
    assert alone[1](*arguments(records, workdir, distributed=False)) == 0
    assert_same_bits(workdir, alone[0], parts)


def test_two_processes_resume_what_one_began(pair, alone, records, parts, tmp_path):
    workdir = stopped_half_way(alone[0], tmp_path)
    pair.start(*arguments(records, workdir))
    assert pair.wait() == [0, 0]
    assert_same_bits(workdir, alone[0], parts)


def test_one_leaves_when_the_other_fails(pair, records, tmp_path):
    damaged = shutil.copytree(records, tmp_path / "damaged")
    for path in damaged.glob("*.array_record"):
        data = bytearray(path.read_bytes())
        for position in range(0, len(data), 512):
            data[position] ^= 1
        path.write_bytes(data)
    begin = time.monotonic()
    slowdown = training.slowdown()
    pair.start(
        *arguments(records, tmp_path / "run"), of_second=(f"--config.data.records={damaged}",)
    )
    assert pair.wait() == [1, 1]  # damaged files are no mistake of the command line
    print(f"both left after {time.monotonic() - begin:.1f} s at a slowdown of {slowdown:.1f}")
    (line,) = pair.lines(1, "miro-jax train: error")
    assert "with 0 readable records" in line
    (line,) = pair.lines(0, "miro-jax train: error")
    assert "of this run failed, see what it printed; start all processes" in line
    assert "error: process 1 (" in line


@pytest.mark.parametrize("index", [0, 1])
def test_a_full_disk_of_one_ends_both_with_the_path(pair, records, tmp_path, index):
    # The file of a whole array is greater than the limit, which stands for the disk.
    steps = ("--config.train.num_steps=500", "--config.train.checkpoint_every_steps=2")
    pids = pair.start(*arguments(records, tmp_path), *steps)
    kill = threading.Timer(HEARTBEAT * training.slowdown(), end_all, [pids])
    assert training.wait_until(lambda: training.last_step(tmp_path) >= 3, pids[0])
    resource.prlimit(pids[index], resource.RLIMIT_FSIZE, (9000, 9000))
    kill.start()
    begin = time.monotonic()
    assert pair.wait() == [1, 1]
    kill.cancel()
    print(f"both left after {time.monotonic() - begin:.1f} s")
    (line,) = pair.lines(index, "error")
    assert "error: the disk is full: " in line and str(tmp_path / "checkpoints") in line
    assert line.endswith("Make room; the same command then resumes from here.")
    (line,) = pair.lines(1 - index, "error")
    assert f"error: process {index} (" in line and "failed, see what it printed; start all" in line


def end_all(pids):
    """Kill processes that wait for each other."""
    for pid in filter(training.is_running, pids):
        os.kill(pid, signal.SIGKILL)


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
    assert pair.wait() == [75, -signal.SIGKILL]
    seconds = time.monotonic() - sent
    print(f"SIGKILL to one: the other left after {seconds:.1f} s")
    assert seconds < HEARTBEAT + 5 * slowdown
    (line,) = pair.lines(0, "error")
    assert "process" in line and "start all processes again: the run resumes" in line

    # Both again, to the end.
    pair.start(*arguments(records, tmp_path))
    assert pair.wait() == [0, 0]
    assert_same_bits(tmp_path, together, parts)


def test_a_run_that_loses_either_process_ends_at_the_same_bits(records, tmp_path):
    lines, well = killing_processes.kill_often(tmp_path, records, kills=2, seed=3)
    print("\n".join(lines))
    assert well, "\n".join(lines)


def test_a_teacher_is_distilled_by_both(pair, together, records, tmp_path):
    words = (w for w in arguments(records, tmp_path) if "num_steps" not in w)
    teacher = f"--config.distil.checkpoint={together}"
    pair.start(*words, "--stage=distil", teacher, "--config.distil.num_steps=2")
    assert pair.wait() == [0, 0], pair.lines(0, "")
    assert training.last_step(tmp_path) == 2


def test_a_run_is_extended_by_both(pair, together, records, tmp_path):
    reward = tmp_path / "own.py"
    reward.write_text(OWN.replace("beauty", "warmth").replace("Beauty", "Warmth"))
    words = (w for w in arguments(records, tmp_path / "run") if "report" not in w)
    pair.start(
        *words,
        "--stage=extend",
        f"--config.extend.checkpoint={together}",
        f"--config.data.new_reward={reward}:Warmth",
        "--config.source.shapes.num_images=64",
        "--config.source.shapes.images_per_shard=32",
        "--config.extend.num_steps=2",
        "--config.extend.warmup_steps=1",
        "--config.evaluate.evaluators=('dials',)",
        "--config.evaluate.levels=(0.0,1.0)",
        "--config.sample.num_steps=1",
    )
    assert pair.wait() == [0, 0], pair.lines(0, "error")
    for name in ("records/manifest.json", "evaluation.json", "compare.html"):
        assert (tmp_path / "run" / name).exists()
    # Process 0 alone scored the images.
    assert pair.lines(0, "annotate: ") == [] and "annotate" not in pair.printed[1].read_text()
