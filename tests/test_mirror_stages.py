"""Stages whose run is in a store work in a local mirror of it."""

import contextlib
import uuid

import pytest

from miro_jax.cli import run_folder
from miro_jax.data import storage
from miro_jax.data.storage import mirror
from miro_jax.data.storage.mirror import origin
from tests import training
from tests.test_mirror import checkpoint, open_mirror, stored, write


@pytest.fixture
def quick_store():
    return storage.RemoteFolder(f"memory://{uuid.uuid4().hex}/run")


def test_stages_work_in_a_mirror_of_a_run_in_a_store(quick_store, tmp_path, monkeypatch):
    monkeypatch.setenv(mirror.VARIABLE, str(tmp_path / "disk"))
    config, url, here = training.tiny(), str(quick_store), tmp_path / "here"
    with pytest.raises(FileNotFoundError, match=f"folder of a trained run; there is none in {url}"):
        run_folder.open_folder(config, url, "sample", held=contextlib.ExitStack())
    with pytest.raises(ValueError, match=f"needs --config.data.records, .* such as {url}-records"):
        run_folder.open_folder(config, url, "annotate", held=contextlib.ExitStack())
    write(here, "config.json", "{}")
    write(here, "log.txt", "of training")
    for step in (10, 20):
        checkpoint(here, step)
    open_mirror(quick_store, here).push()
    with contextlib.ExitStack() as held:
        local = run_folder.open_folder(config, url, "sample", held=held)
        assert [p.name for p in (local / "checkpoints").iterdir()] == ["20"]
        write(local, "images/a.png", "an image")
        assert quick_store.exists(".lock-sample") and origin(local) == url
    found = stored(quick_store)
    assert found["images/a.png"] == "an image" and found["log.txt"] == "of training"
    assert found["config.json"] == "{}" and not [name for name in found if ".lock" in name]
    with contextlib.ExitStack() as held:
        with pytest.raises(FileExistsError, match="--resume=never .*holds a checkpoint of step 20"):
            run_folder.open_folder(config, url, "train", held=held, resume="never")
        with pytest.raises(BlockingIOError, match=f"the run {url} is in use by another process"):
            run_folder.open_folder(config, url, "train", held=contextlib.ExitStack())


@pytest.mark.parametrize("stage", ["annotate", "study"])
def test_stages_that_begin_in_a_store_leave_it_to_one_process(
    quick_store, tmp_path, monkeypatch, stage
):
    monkeypatch.setenv(mirror.VARIABLE, str(tmp_path / "disk"))
    config, url = training.tiny(), str(quick_store)
    with config.unlocked():
        config.data.records = f"memory://{uuid.uuid4().hex}/records"
    with contextlib.ExitStack() as held:
        local = run_folder.open_folder(config, url, stage, held=held)
        write(local, "study/measured.json", "{}")
        with pytest.raises(BlockingIOError, match=f"the run {url} is in use by another process"):
            run_folder.open_folder(config, url, "train", held=contextlib.ExitStack())
    assert {"config.json", "log.txt", "study/measured.json"} <= stored(quick_store).keys()
