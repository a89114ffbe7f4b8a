"""Checkpoints in an object store: a URL becomes a local folder with what sampling needs, whole."""

import os
import uuid
from pathlib import Path

import botocore.exceptions
import jax
import numpy as np
import pytest
from flax import nnx

from configs import base as configs
from miro_jax import sample
from miro_jax.cli import run_folder, stored_checkpoint
from miro_jax.cli.stored_checkpoint import locate
from miro_jax.data import storage
from miro_jax.data.storage import RemoteFolder, mirror
from miro_jax.data.storage.mirror import COMMIT, origin
from miro_jax.evaluate import command, compare_command
from miro_jax.evaluate.suites import command as suite_command
from miro_jax.evaluate.suites import manifest, work
from miro_jax.models import sharding
from miro_jax.sample import trained
from miro_jax.train import components
from miro_jax.train.checkpoint import Checkpoints
from miro_jax.train.components import CONDITIONED_ON
from tests import stores
from tests.networks import paths
from tests.sampling import NAMES, save_tiny
from tests.test_trained import random_state

CONFIG = b"""{"data": {"train_rewards": ["beauty"], "records": ""}, "sample": {
"guidance_scale": 2.5, "num_steps": 3, "solver": "euler", "negative": "empty"}}"""


@pytest.fixture(autouse=True)
def scratch(tmp_path, monkeypatch):
    monkeypatch.setenv(mirror.VARIABLE, str(tmp_path / "scratch"))
    return tmp_path / "scratch"


@pytest.fixture(params=["memory", "s3"])
def store(request):
    return make_run(request.param, request)


@pytest.fixture
def quick_store(request):
    return make_run("memory", request)


def make_run(kind, request):
    """A run with two finished checkpoints and one that is being uploaded."""
    top = f"memory://{uuid.uuid4().hex}"
    if kind == "s3":
        top = request.getfixturevalue("make_bucket")()
    store = RemoteFolder(f"{top}/runs/mine")
    for name in ("log.txt", "samples/step-10.png", "compiled/cpu/x", "records/a.array_record"):
        store.write(name, b"large")
    store.write("config.json", CONFIG)
    store.write("evaluation.json", b"[]")
    for step in (9, 10, 11):
        save(store, step, finished=step != 11)
    return store


def save(store, step, finished=True):
    for part in ("params", "opt_state", "ema_params", "buffers", "host"):
        store.write(f"checkpoints/{step}/{part}/d/0", f"{part} of {step}".encode())
    store.write(f"checkpoints/{step}/_CHECKPOINT_METADATA", b"{}")
    if finished:
        store.write(f"checkpoints/{step}/{COMMIT}", b"done")


def files(folder):
    return {p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file()}


def expected(step, *more):
    inside = {"ema_params/d/0", "buffers/d/0", "host/d/0", "_CHECKPOINT_METADATA", COMMIT}
    small = {"config.json", "evaluation.json", mirror.MARKER}
    return {f"checkpoints/{step}/{name}" for name in inside} | small | {*more}


def test_of_a_run_comes_what_sampling_reads_of_the_newest_finished_checkpoint(store, capsys):
    folder = locate(str(store))
    assert files(folder) == expected(10) and folder.name == "mine"
    assert (folder / "checkpoints/10/ema_params/d/0").read_text() == "ema_params of 10"
    assert origin(folder) == str(store) and trained.is_run(folder)
    assert f"{store}: fetching 0.0 MB into {folder}" in capsys.readouterr().err
    assert locate(str(store)) == folder and capsys.readouterr().err == ""
    assert files(locate(str(store), step=9)) == expected(9)
    assert trained.peek(str(store))[:2] == (
        ("beauty",),
        trained.read_json(folder / "config.json")["sample"],
    )


def test_small_files_come_alone_and_always_anew(quick_store):
    folder = locate(str(quick_store), weights=False)
    assert files(folder) == {"config.json", "evaluation.json", mirror.MARKER}
    assert trained.is_run(folder)
    quick_store.write("evaluation.json", b"[1]")
    assert locate(str(quick_store)) == folder
    assert (folder / "evaluation.json").read_text() == "[1]"


def test_another_checkpoint_has_another_folder_and_the_last_two_stay(quick_store):
    folders = []
    for step in (10, 12, 13):
        save(quick_store, step)
        folders.append(locate(str(quick_store)))
        os.utime(folders[-1].parent, (step, step))
    assert len({*folders}) == 3 and files(folders[-1]) == expected(13)
    assert [folder.exists() for folder in folders] == [False, True, True]


@pytest.mark.parametrize("calls", range(5))
def test_killed_anywhere_the_same_call_fetches_the_rest(quick_store, monkeypatch, calls):
    fetch, left, fetched = RemoteFolder.fetch, [calls], []

    def killed(store, name, path, count=None):
        if not left[0]:
            raise KeyboardInterrupt
        left[0] -= 1
        fetch(store, name, path, count)

    monkeypatch.setattr(stored_checkpoint, "_THREADS", 1)
    monkeypatch.setattr(RemoteFolder, "fetch", killed)
    with pytest.raises(KeyboardInterrupt):
        locate(str(quick_store))
    folder = locate(str(quick_store), weights=False)
    there = files(folder)
    assert f"checkpoints/10/{COMMIT}" not in there and not [n for n in there if ".tmp-" in n]

    def counted(store, name, path, count=None):
        fetched.append(name)
        fetch(store, name, path, count)

    monkeypatch.setattr(RemoteFolder, "fetch", counted)
    assert locate(str(quick_store)) == folder and files(folder) == expected(10)
    assert len(fetched) == 5 - calls and there.isdisjoint(fetched)


def test_a_file_that_comes_short_is_not_kept(quick_store, monkeypatch):
    fetch = RemoteFolder.fetch

    def cut(store, name, path, count=None):
        fetch(store, name, path, count)
        if "ema_params" in name:
            os.truncate(path, 3)

    monkeypatch.setattr(RemoteFolder, "fetch", cut)
    with pytest.raises(storage.Damaged, match="ema_params/d/0 must have 16 bytes; 3 came"):
        locate(str(quick_store))
    monkeypatch.undo()
    assert "checkpoints/10/ema_params/d/0" not in files(locate(str(quick_store), weights=False))


@pytest.mark.parametrize("name", ["checkpoints/10/../../../../x", "/etc/x"])
def test_names_that_lead_out_of_the_folder_are_refused(quick_store, name, monkeypatch):
    found = {"name": f"{quick_store._root}/{name}", "size": 1, "type": "file"}
    monkeypatch.setattr(quick_store._system, "find", lambda *_, **__: {"x": found})
    with pytest.raises(storage.Damaged, match="must hold names of files"):
        locate(str(quick_store))


def test_what_is_no_checkpoint_says_what_is_there(quick_store, make_bucket):
    bucket = make_bucket()
    for url in (f"{bucket}/nothing", "s3://no-such-bucket-of-ours/run", f"{quick_store}/records"):
        with pytest.raises(FileNotFoundError, match=f"{url} must be the folder of a run or of a"):
            locate(url)
    with pytest.raises(FileNotFoundError, match="with a folder no_clip or miro-no-clip; it has no"):
        trained.peek(str(quick_store), "no_clip")
    quick_store.write(f"checkpoints_before/12/{COMMIT}", b"done")  # somebody's copy
    with pytest.raises(FileNotFoundError, match="the checkpoint of step 11; it holds 9, 10"):
        locate(str(quick_store), step=11)
    for step in (9, 10):
        quick_store.remove(f"checkpoints/{step}/{COMMIT}")
    with pytest.raises(FileNotFoundError, match="must hold a finished checkpoint; it holds none"):
        trained.peek(str(quick_store))
    quick_store.remove("checkpoints")
    with pytest.raises(FileNotFoundError, match="of a run, or model.safetensors of a release"):
        locate(str(quick_store))


@pytest.mark.parametrize(
    "error, kind",
    [
        (botocore.exceptions.NoCredentialsError(), OSError),
        (PermissionError(13, "Forbidden"), PermissionError),
    ],
)
def test_a_store_that_lets_nobody_in_says_how_to_get_in(monkeypatch, error, kind, capsys):
    def refuse(*_):
        raise error

    monkeypatch.setattr(RemoteFolder, "read", refuse)
    with pytest.raises(kind, match="s3://b/run cannot be read: .*AWS_ACCESS_KEY_ID and"):
        locate("s3://b/run")
    assert sample.main(["--prompt=x", "--checkpoint=s3://b/run"]) in (1, 2)
    out, err = capsys.readouterr()
    assert not out and err.count("\n") == 1 and "s3://b/run cannot be read" in err
    assert err.count("object store answered") == err.count("AWS_ACCESS_KEY_ID") == 1


@pytest.mark.parametrize("url", ["https://host/owner/name", "file:///runs/mine", "sftp://h/run"])
def test_other_urls_than_those_of_stores_say_what_to_give(url, tmp_path):
    for look in (trained.peek, trained.load):
        with pytest.raises(ValueError, match=f"must begin with gs:// or s3://.*Got {url}"):
            look(url)
    with pytest.raises(ValueError, match="must be a copy of a checkpoint in a store"):
        stored_checkpoint.forget(tmp_path)
    assert tmp_path.exists()


def test_results_of_a_url_need_a_folder_here(capsys):
    for main, words in ((command.main, []), (compare_command.main, ["runs/base"])):
        assert main([*words, "s3://b/run"]) == 2
        assert "must be on this machine; got s3://b/run. Give --suite" in capsys.readouterr().err


def test_an_evaluation_of_a_url_is_planned_without_weights_and_goes_to_a_folder_here(quick_store):
    config = configs.get_config("tiny")
    quick_store.write("config.json", config.to_json().encode())
    flags = suite_command.make_parser().read([str(quick_store), "--suite=parti"])
    planned = suite_command._plan_checkpoint(
        suite_command.make_settings(suite_command.Settings, flags), flags
    )
    assert planned.out == Path("evals/mine/step-000010/parti@1") and planned.sampling.step == 10
    folder = locate(str(quick_store), weights=False)
    assert files(folder) == {"config.json", "evaluation.json", mirror.MARKER}


def test_checkpoints_of_a_run_in_a_store_are_watched(quick_store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    config = configs.get_config("tiny")
    config.train.num_steps = 11  # whose upload ends meanwhile
    quick_store.write("config.json", config.to_json().encode())
    groups = dict.fromkeys(manifest.GROUPS, {}) | {"result": {"metrics": {}, "order": []}}
    evaluated = []

    def evaluate(planned):
        evaluated.append(planned.sampling.step)
        if len(evaluated) == 2:
            quick_store.write(f"checkpoints/11/{COMMIT}", b"done")
        (planned.out / manifest.NAME).write_bytes(manifest.dump(groups))
        return str(planned.out)

    monkeypatch.setattr(work, "evaluate_planned", evaluate)
    words = [str(quick_store), "--suite=shapes", "--watch", "--watch-seconds=0"]
    assert suite_command.main(words) == 0
    assert evaluated == [10, 9, 11] and stored_checkpoint.steps_of(str(quick_store)) == [9, 10, 11]
    made = sorted(path.parent.as_posix() for path in Path("evals").glob("*/*/*/*.json"))
    assert made == [f"evals/mine/step-{step:06d}/shapes@1" for step in (9, 10, 11)]
    assert suite_command.main([*words, "--out=x"]) == 2


def test_records_of_a_run_in_a_store_are_in_the_store(quick_store):
    folder = locate(str(quick_store), weights=False)
    assert run_folder.records_of(folder) == f"{quick_store}/records"
    quick_store.write("config.json", CONFIG.replace(b'"records": ""', b'"records": "s3://b/r"'))
    folder = locate(str(quick_store), weights=False)
    assert run_folder.records_of(folder) == "s3://b/r"


@pytest.mark.over_a_second
def test_a_release_in_a_store_loads_as_its_folder_does(make_bucket, tmp_path):
    folder, url = save_tiny(tmp_path / "tiny"), f"{make_bucket()}/releases"
    (folder / "README.md").write_text("a card")
    stores.upload(folder, f"{url}/miro-no-clip")
    here, there = trained.load(folder), trained.load(url, "no_clip")
    assert there.reward_names == here.reward_names == NAMES == trained.peek(url, "no_clip")[0]
    digest = here.name.rpartition(" ")[2]
    assert there.name == f"{url}/miro-no-clip {digest}" and here.name == f"{folder} {digest}"
    found, wanted = (paths(nnx.merge_state(*side.weights)) for side in (there, here))
    for path, values in wanted.items():
        np.testing.assert_array_equal(found[path], values, err_msg=path)
    assert files(locate(f"{url}/miro-no-clip")) == {
        *("config.json", "model.safetensors", "uncond_embedding.npy", mirror.MARKER)
    }


def test_weights_in_several_files_come_all_or_the_one_that_lacks_is_named(quick_store):
    quick_store.remove("checkpoints")
    index = b'{"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}'
    quick_store.write("model.safetensors.index.json", index)
    quick_store.write("model-1.safetensors", b"1")
    with pytest.raises(FileNotFoundError, match="/model-2.safetensors is missing; model.safe"):
        locate(str(quick_store))
    quick_store.write("model-2.safetensors", b"2")
    names = {"model-1.safetensors", "model-2.safetensors", "model.safetensors.index.json"}
    assert files(locate(str(quick_store))) == names | {"config.json", mirror.MARKER}


@pytest.mark.slow
def test_a_run_in_a_store_loads_and_damage_is_fetched_anew(make_bucket, tmp_path, monkeypatch):
    config = configs.get_config("tiny").copy_and_resolve_references()
    parts = components.build_components(config)
    monkeypatch.setattr(components, "build_components", lambda _: parts)  # building takes seconds
    run, url = tmp_path / "run", f"{make_bucket()}/runs/mine"
    with sharding.use_mesh(parts.mesh), Checkpoints(run / "checkpoints") as checkpoints:
        state = random_state(parts, seed=0)
        checkpoints.save(20, state, {CONDITIONED_ON: list(config.data.train_rewards)})
    (run / "config.json").write_text(config.to_json())
    stores.upload(run, url)

    loaded = trained.load(url)
    assert loaded.step == 20 and loaded.name == "mine"
    for found, saved in zip(loaded.weights, (state.ema_params, state.buffers), strict=True):
        jax.tree.map(np.testing.assert_array_equal, found, saved)
    copy = locate(url)
    assert not list(copy.glob("checkpoints/20/opt_state*"))
    # All of them: a single one may hold nothing that is read (test_checkpoint flips single bits).
    for file in copy.glob("checkpoints/20/ema_params/**/d/*"):
        file.write_bytes(bytes(byte ^ 1 for byte in file.read_bytes()))
    with pytest.raises(ValueError, match=f"{url} has no checkpoint .* the same command fetches it"):
        trained.load(url)
    assert trained.weights_name(trained.load(url)) == trained.weights_name(loaded)
