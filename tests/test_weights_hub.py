"""Finding files: folders, the cache, and one clear line where there is no network."""

import hashlib
import json
import time

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import constants

from miro_jax.pretrained.weights import hub, tensors


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """A cache as the hub's client lays it out, with one repository that has one file."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    folder = tmp_path / "models--owner--model"
    commit = "0" * 40
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text(commit)
    (folder / "blobs").mkdir()
    snapshot = folder / "snapshots" / commit
    snapshot.mkdir(parents=True)
    content = b'{"size": 3}'
    digest = hashlib.sha256(content).hexdigest()
    (folder / "blobs" / digest).write_bytes(content)
    (snapshot / "config.json").symlink_to(f"../../blobs/{digest}")
    monkeypatch.setattr(
        huggingface_hub,
        "try_to_load_from_cache",
        lambda *args, **kw: huggingface_hub.file_download.try_to_load_from_cache(
            *args, cache_dir=tmp_path, **kw
        ),
    )
    return digest


def test_a_folder_is_a_repository(tmp_path):
    (tmp_path / "part").mkdir()
    (tmp_path / "part" / "config.json").write_text('{"a": 1}')
    found = hub.open(tmp_path, "part")
    assert found.json("config.json") == {"a": 1}
    assert found.has("config.json") and not found.has("other.json")
    assert found.path("config.json") == tmp_path / "part" / "config.json"
    assert found.sha256("config.json") == hashlib.sha256(b'{"a": 1}').hexdigest()
    with pytest.raises(FileNotFoundError, match=r"part has no file part/other.json"):
        found.path("other.json")


def test_damaged_json_is_named(tmp_path):
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ValueError, match="config.json is no valid JSON"):
        hub.open(tmp_path).json("config.json")


def test_safetensors_come_before_pickles(tmp_path):
    repository = hub.open(tmp_path)
    with pytest.raises(FileNotFoundError, match="holds none of model.safetensors"):
        repository.weights()
    assert not repository.is_here()
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert repository.is_here()
    assert repository.weights().name == "pytorch_model.bin"
    tensors.write_safetensors(tmp_path / "model.safetensors", {"x": np.ones(2, np.float32)})
    assert repository.weights().name == "model.safetensors"
    assert repository.tensors()["x"].read().tolist() == [1, 1]
    assert repository.weights("pytorch_model.bin").name == "pytorch_model.bin"


def test_several_files_are_joined_by_their_index(tmp_path):
    tensors.write_safetensors(tmp_path / "one.safetensors", {"x": np.ones(2, np.float32)})
    index = {"weight_map": {"x": "one.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    assert list(hub.open(tmp_path).tensors()) == ["x"]


@pytest.mark.parametrize("source", ["nowhere", "/no/such/folder", "a/b/c", ""])
def test_what_is_neither_folder_nor_hub_id_is_refused(source):
    with pytest.raises(FileNotFoundError, match="no existing folder, and no hub id"):
        hub.open(source if source else "?")


def test_a_file_is_no_repository(tmp_path):
    (tmp_path / "x").write_text("")
    with pytest.raises(FileNotFoundError, match="no existing folder"):
        hub.open(tmp_path / "x")


def test_a_missing_folder_inside_lists_those_that_are_there(tmp_path):
    (tmp_path / "miro-only-clip").mkdir()
    with pytest.raises(FileNotFoundError, match="no folder 'x'; it has miro-only-clip"):
        hub.open(tmp_path, "x")


@pytest.mark.parametrize("switch", ["MIRO_JAX_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_it_fails_at_once_and_says_what_to_fetch(monkeypatch, switch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", switch == "HF_HUB_OFFLINE")
    monkeypatch.setenv("MIRO_JAX_OFFLINE", "1" if switch == "MIRO_JAX_OFFLINE" else "0")
    begin = time.monotonic()
    with pytest.raises(hub.OfflineError) as caught:
        hub.open("owner/nothing", "part").path("config.json")
    assert time.monotonic() - begin < 1
    assert str(caught.value) == (
        "owner/nothing/part must be fetched and fetching is switched off. Where there is a "
        "network, run: hf download owner/nothing --include 'part/*' --local-dir FOLDER; then give "
        "FOLDER in place of owner/nothing."
    )


def test_without_a_network_it_fails_soon(monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    for name in ("https_proxy", "HTTPS_PROXY", "all_proxy"):
        monkeypatch.delenv(name, raising=False)
    begin = time.monotonic()
    with pytest.raises(hub.UnreachableError, match="the hub cannot be reached"):
        hub.open("owner/nothing").path("config.json")
    assert time.monotonic() - begin < hub.SECONDS_TO_CONNECT + 1


def test_a_cached_file_is_found_offline_with_its_digest(cached):
    repository = hub.open("owner/model")
    assert repository.json("config.json") == {"size": 3}
    assert repository.sha256("config.json") == cached
    assert repository.is_here("config.pt") is False
    with pytest.raises(hub.OfflineError, match="hf download owner/model --local-dir"):
        repository.path("other.json")
