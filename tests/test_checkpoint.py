"""A checkpoint comes back bit for bit, on any mesh, or is not taken for one."""

import dataclasses
import gc
import logging
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from orbax.checkpoint._src.futures import future

from miro_jax.train.checkpoint import Checkpoints, LayoutMismatch
from tests.states import DATA, abstract, assert_same, make, mesh_sharding


def saved(folder, *steps, **settings):
    with Checkpoints(folder, **settings) as checkpoints:
        for step in steps:
            assert checkpoints.save(step, make(step), DATA | {"position": step})
    return folder


def restore(folder, **settings):
    with Checkpoints(folder, **settings) as checkpoints:
        return checkpoints.restore_latest(abstract(make(0)))


@pytest.fixture(scope="module")
def two_steps(tmp_path_factory):
    """A folder with steps 4 and 6; copy it before changing it."""
    return saved(tmp_path_factory.mktemp("checkpoints"), 4, 6)


@pytest.fixture
def damaged(two_steps, tmp_path):
    """A copy of the same, to be damaged."""
    return shutil.copytree(two_steps, tmp_path / "run")


def test_an_empty_folder_restores_nothing(tmp_path):
    assert restore(tmp_path / "a" / "b") is None


@pytest.mark.parametrize("resumed", [False, True])
@pytest.mark.over_a_second
def test_no_save_of_a_run_compiles_a_digest(tmp_path, resumed, caplog):
    if resumed:
        saved(tmp_path, 2)
    with Checkpoints(tmp_path) as checkpoints:
        jax.clear_caches()
        if resumed:
            checkpoints.restore_latest(abstract(make(0)))
        else:
            checkpoints.prepare(make(0))
        state = make(4)
        with jax.log_compiles(), caplog.at_level(logging.WARNING, "jax"):
            assert checkpoints.save(4, state, DATA)
    compiled = [r.getMessage() for r in caplog.records if r.getMessage().startswith("Compiling")]
    assert [text for text in compiled if "digest" in text] == []  # Orbax slices some arrays


def test_state_and_data_state_come_back_exactly(two_steps):
    step, state, data_state = restore(two_steps)
    assert step == 6 and data_state == DATA | {"position": 6}
    assert_same(state, make(6))


@pytest.mark.parametrize(
    "shape, spec",
    [((8, 1), ("data", None)), ((2, 4), ("data", "model")), ((1, 8), (None, "model"))],
)
def test_restores_onto_another_mesh(two_steps, shape, spec):
    sharding = mesh_sharding(shape, spec)
    with Checkpoints(two_steps, read_only=True) as checkpoints:
        _, state, _ = checkpoints.restore_latest(abstract(make(0), sharding))
    assert_same(state, make(6))
    for leaf in jax.tree.leaves(state):
        assert leaf.sharding == sharding(leaf)


def test_restores_onto_one_device(two_steps):
    device = jax.sharding.SingleDeviceSharding(jax.devices()[3])
    with Checkpoints(two_steps, read_only=True) as checkpoints:
        _, state, _ = checkpoints.restore_latest(abstract(make(0), lambda _: device))
    assert_same(state, make(6))
    assert all(leaf.devices() == {jax.devices()[3]} for leaf in jax.tree.leaves(state))


def test_files_of_an_nnx_state_restore_into_plain_dicts(two_steps):
    plain = make(0, as_nnx=False)
    with Checkpoints(two_steps, read_only=True) as checkpoints:
        _, state, _ = checkpoints.restore_latest(abstract(plain))
    assert_same(state, make(6, as_nnx=False))


def test_one_part_is_read_alone(damaged):
    shutil.rmtree(damaged / "6" / "opt_state")
    with Checkpoints(damaged, read_only=True) as checkpoints:
        part = {"ema_params": abstract(make(0).ema_params)}
        step, state, _ = checkpoints.restore_latest(part)
    assert step == 6
    assert_same(state["ema_params"], make(6).ema_params)


def test_a_step_can_be_asked_for(two_steps):
    with Checkpoints(two_steps, read_only=True) as checkpoints:
        step, state, _ = checkpoints.restore_latest(abstract(make(0)), step=4)
        assert step == 4
        assert_same(state, make(4))
        with pytest.raises(FileNotFoundError, match=r"must hold step 5; it holds \[4, 6\]"):
            checkpoints.restore_latest(abstract(make(0)), step=5)


@pytest.mark.over_a_second
def test_the_saved_state_can_be_donated_at_once(tmp_path):
    overwrite = jax.jit(lambda s: jax.tree.map(lambda x: x * 0 - 1, s), donate_argnums=0)
    with Checkpoints(tmp_path) as checkpoints:
        state = make(1, size=4096)
        checkpoints.save(1, state, DATA)
        for _ in range(3):
            state = overwrite(state)
        checkpoints.wait()
        _, found, _ = checkpoints.restore_latest(abstract(make(0, size=4096)))
    assert_same(found, make(1, size=4096))


@pytest.mark.over_a_second
def test_the_newest_are_kept(tmp_path):
    saved(tmp_path, 1, 2, 3, 4, keep=2)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        assert checkpoints.steps() == [3, 4]


def test_a_step_is_saved_once(damaged):
    with Checkpoints(damaged) as checkpoints:
        checkpoints.restore_latest(abstract(make(0)))
        assert not checkpoints.save(6, make(6), DATA)  # restored: nothing to add
        assert checkpoints.save(7, make(7), DATA)
        assert not checkpoints.save(7, make(7), DATA)
        for step in (5, 6):
            with pytest.raises(ValueError, match=f"ascending steps; got {step} .* holds 7"):
                checkpoints.save(step, make(step), DATA)


def test_saving_over_a_run_that_was_not_restored_is_an_error(damaged):
    with Checkpoints(damaged) as checkpoints:
        with pytest.raises(ValueError, match="Restore it first"):
            checkpoints.save(6, make(6), DATA)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_is_never_saved(tmp_path, bad):
    saved(tmp_path, 1)
    state = make(2)
    kernel = state.params["blocks"][0]["kernel"]
    kernel.set_value(kernel.get_value().at[3, 5].set(bad))
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.restore_latest(abstract(make(0)))
        with pytest.raises(FloatingPointError, match=r"at step 2 1 of .* params/blocks/0/kernel"):
            checkpoints.save(2, state, DATA)
    assert restore(tmp_path)[0] == 1


# Orbax leaves coroutines behind when a read fails; their end is a warning of its own.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.over_a_second
def test_a_flipped_bit_is_found_and_the_step_before_is_used(two_steps, tmp_path, caplog):
    """Any file, any bit: the state of step 6 (the bit did not matter) or of 4, never another."""
    rng = np.random.default_rng(0)
    files = sorted(
        p.relative_to(two_steps)
        for p in (two_steps / "6").rglob("*")
        if p.stat().st_size and p.is_file()
    )
    for trial, name in enumerate([*rng.permutation(files), *files][:25]):
        run = shutil.copytree(two_steps, tmp_path / str(trial))
        path = run / name
        data = bytearray(path.read_bytes())
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        path.write_bytes(data)
        caplog.clear()
        step, state, data_state = restore(run, read_only=True)
        assert_same(state, make(step))
        assert data_state == DATA | {"position": step}
        lines = [r for r in caplog.records if "cannot be used" in r.message]
        assert len(lines) == (step == 4)
    gc.collect()  # those coroutines end here, not in another test


@pytest.mark.over_a_second
def test_a_flipped_bit_of_a_value_is_found_by_its_digest(tmp_path, caplog):
    """Orbax itself restores it without an error."""
    with Checkpoints(tmp_path) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, make(step, size=4096), DATA)
    path = max((tmp_path / "2" / "params").rglob("d/*"), key=lambda p: p.stat().st_size)
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        step, state, _ = checkpoints.restore_latest(abstract(make(0, size=4096)))
    assert step == 1
    assert_same(state, make(1, size=4096))
    assert "1 arrays do not match their digest, as params/blocks/0/kernel" in caplog.text


@pytest.mark.parametrize(
    "old, new", [('"position": 6', '"position": 5'), ('"step": 6', '"step": 7')]
)
def test_a_changed_data_state_is_found_by_its_checksum(damaged, caplog, old, new):
    host = damaged / "6" / "host" / "metadata"
    assert old in host.read_text()
    host.write_text(host.read_text().replace(old, new))
    assert restore(damaged)[0] == 4
    assert "does not match its checksum" in caplog.text


@pytest.mark.over_a_second
def test_an_unusable_step_is_set_aside_and_saved_again(damaged, caplog):
    shutil.rmtree(damaged / "6" / "params")
    with Checkpoints(damaged) as checkpoints:
        assert checkpoints.restore_latest(abstract(make(0)))[0] == 4
        assert checkpoints.save(5, make(5), DATA)
        assert checkpoints.save(6, make(6), DATA)
    assert (damaged / "unusable-6").is_dir()
    warnings = [
        r for r in caplog.records if r.levelno >= logging.WARNING and "unusable" in r.message
    ]
    assert len(warnings) == 1 and "step 6: " in warnings[0].message
    step, state, _ = restore(damaged)
    assert step == 6
    assert_same(state, make(6))


def test_reading_only_changes_nothing(damaged):
    shutil.rmtree(damaged / "6" / "params")
    before = sorted(damaged.rglob("*"))
    assert restore(damaged, read_only=True)[0] == 4
    assert sorted(damaged.rglob("*")) == before


@pytest.mark.parametrize("leftover", ["empty", "uncommitted", "half_deleted"])
@pytest.mark.over_a_second
def test_what_is_not_committed_is_never_chosen(damaged, leftover):
    step = damaged / "9"
    if leftover == "empty":
        step.mkdir()
    else:
        shutil.copytree(damaged / "6", step)
        (step / "commit_success.txt").unlink()
        if leftover == "half_deleted":
            shutil.rmtree(step / "params")
    assert restore(damaged, read_only=True)[0] == 6
    with Checkpoints(damaged) as checkpoints:
        assert checkpoints.steps() == [4, 6]
        checkpoints.restore_latest(abstract(make(0)))
        assert checkpoints.save(9, make(9), DATA)
    step, state, _ = restore(damaged)
    assert step == 9
    assert_same(state, make(9))


def test_no_usable_checkpoint_is_an_error_with_all_causes(damaged):
    for step in ("4", "6"):
        shutil.rmtree(damaged / step / "params")
    with pytest.raises(ValueError, match="(?s)can be used. step 6: .*step 4: .*begin anew"):
        restore(damaged)
    assert (damaged / "6").is_dir()


@pytest.mark.parametrize(
    "change, text",
    [
        (
            lambda s: make(0, size=16),
            r"params/blocks/0/kernel: float32\[8, 8\] saved, float32\[16, 8\]",
        ),
        (lambda s: dataclasses.replace(s, ema_params=s.params), r"bfloat16\[8, 8\] saved, float32"),
        (
            lambda s: dataclasses.replace(s, opt_state=[s.opt_state[0].mu]),
            r"opt_state/0/count: int32\[\] saved, nothing needed",
        ),
        (
            lambda s: dataclasses.replace(s, opt_state=(*s.opt_state, {"new": jnp.ones(3)})),
            r"opt_state/2/new: nothing saved, float32\[3\] needed",
        ),
    ],
)
def test_another_model_is_refused_by_leaf(two_steps, change, text):
    with Checkpoints(two_steps, read_only=True) as checkpoints:
        with pytest.raises(LayoutMismatch, match=text):
            checkpoints.restore_latest(abstract(change(make(0))))


def test_a_target_without_sharding_is_refused(two_steps):
    bare = jax.eval_shape(lambda: make(0))
    with Checkpoints(two_steps, read_only=True) as checkpoints:
        with pytest.raises(ValueError, match="must carry the sharding"):
            checkpoints.restore_latest(bare)


def test_a_folder_that_cannot_be_written_is_one_clear_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="checkpoints must be a folder that can be written"):
        Checkpoints(tmp_path / "file" / "checkpoints")


def test_a_missing_folder_to_read_names_its_writer(tmp_path):
    with pytest.raises(FileNotFoundError, match="a training run writes it"):
        Checkpoints(tmp_path / "none", read_only=True)


def test_to_keep_none_is_refused(tmp_path):
    with pytest.raises(ValueError, match="must be at least 1"):
        Checkpoints(tmp_path, keep=0)


def test_a_path_that_orbax_takes_for_a_pattern_is_refused(tmp_path):
    with pytest.raises(ValueError, match="neither brackets nor backslashes"):
        Checkpoints(tmp_path / "run[1]")


def test_what_a_thread_of_a_save_fails_of_is_in_the_log_alone(monkeypatch, capfd, caplog):
    """Orbax logs it with its traceback, maybe while the command ends and gives `log` back."""
    log, said = logging.getLogger("miro_jax"), []
    monkeypatch.setattr(log, "propagate", False)

    class Ending(logging.Handler):
        def emit(self, record):
            said.append(self.format(record))
            log.propagate = True

    def fail():
        raise OSError(27, "File too large")

    monkeypatch.setattr(log, "handlers", [Ending()])
    thread = future._SignalingThread(target=fail, send_signals=[], receive_signals=[])
    thread.start()
    with pytest.raises(OSError, match="File too large"):
        thread.join()
    assert len(said) == 1 and "Traceback" in said[0]
    assert not caplog.records and capfd.readouterr().err == ""
