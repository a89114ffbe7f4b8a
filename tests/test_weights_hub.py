"""Finding files: folders, the cache, and one clear line where there is no network."""

import hashlib
import json
import os
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


@pytest.mark.parametrize(("value", "is_on"), [("1", 1), ("YES", 1), ("true", 1), ("0", 0), ("", 0),
                                              ("False", 0), ("off", 0), ("no", 0)])  # fmt: skip
def test_the_switch_is_read_as_that_of_the_hub(monkeypatch, value, is_on):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("MIRO_JAX_OFFLINE", value)
    assert hub.is_offline() == bool(is_on)


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


# Caches as `hf download` and others leave them: nothing notes which files the hub has not.


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of a machine that is offline; a function that puts files into it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("MIRO_JAX_OFFLINE", "1")

    def put(*names, commit="a" * 40, ref="main", name="owner/model"):
        top = tmp_path / f"models--{name.replace('/', '--')}"
        for file in names:
            path = top / "snapshots" / commit / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"{}")
        if ref:
            (top / "refs").mkdir(exist_ok=True)
            (top / "refs" / ref).write_text(commit)
        return top

    return put


@pytest.mark.parametrize(
    "stem, files, found",
    [
        ("HPS_v2.1_compressed", ["HPS_v2.1_compressed.pt"], "HPS_v2.1_compressed.pt"),
        ("model", ["config.json", "pytorch_model.bin"], "pytorch_model.bin"),
        ("model", ["pytorch_model.bin", "model.safetensors"], "model.safetensors"),
        ("model", ["model.fp16.safetensors"], "model.fp16.safetensors"),
        ("model", ["model.fp16.safetensors", "pytorch_model.bin"], "pytorch_model.bin"),
    ],
)
def test_what_the_cache_has_is_taken_offline_whatever_its_name(cache, stem, files, found):
    cache(*files)
    assert hub.open("owner/model").weights(stem).name == found
    assert hub.open("owner/model").is_here(stem)


def test_weights_in_several_files_count_if_all_are_there(cache):
    top = cache("model.safetensors.index.json", "one.safetensors", "pytorch_model.bin")
    folder = top / "snapshots" / ("a" * 40)
    names = {"weight_map": {"x": "one.safetensors", "y": "two.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(names))
    assert hub.open("owner/model").weights().name == "pytorch_model.bin"
    cache("two.safetensors")
    assert hub.open("owner/model").weights().name == "model.safetensors.index.json"
    (folder / "pytorch_model.bin").unlink()
    (folder / "one.safetensors").unlink()
    (folder / "one.safetensors").symlink_to(top / "blobs" / "gone")  # an interrupted download
    assert not hub.open("owner/model").is_here()
    with pytest.raises(hub.OfflineError, match="must be fetched"):
        hub.open("owner/model").weights()


def test_a_file_that_a_cached_repository_lacks_is_none_offline(cache):
    cache("config.json", "part/model.safetensors")
    assert hub.open("owner/model").has("tokenizer.json") is False
    assert hub.open("owner/model", "part").weights().parent.name == "part"
    with pytest.raises(hub.OfflineError):  # nothing is known of it at all
        hub.open("owner/other").has("tokenizer.json")


def test_other_revisions_are_found_by_their_names(cache):
    cache("config.json", commit="b" * 40, ref="v2")
    assert hub.open("owner/model", revision="v2").path("config.json")
    assert hub.open("owner/model", revision="b" * 40).path("config.json")
    with pytest.raises(hub.OfflineError):
        hub.open("owner/model", revision="v3").path("config.json")
    assert hub.open("owner/model").path("config.json")  # the only one that is there
    cache("config.json", commit="c" * 40, ref=None)
    with pytest.raises(hub.OfflineError):
        hub.open("owner/model").path("config.json")


def test_a_cache_without_links_gives_the_digest_of_the_bytes(cache):
    cache("model.safetensors")
    assert hub.open("owner/model").digest() == hashlib.sha256(b"{}").hexdigest()


def test_without_a_network_the_only_snapshot_counts_though_no_ref_names_it(cache, monkeypatch):
    cache("model.safetensors", ref=None)
    monkeypatch.setenv("MIRO_JAX_OFFLINE", "0")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    for name in PROXIES:
        monkeypatch.delenv(name, raising=False)
    assert hub.open("owner/model").weights().name == "model.safetensors"
    with pytest.raises(hub.UnreachableError):
        hub.open("owner/model").path("config.json")
    cache("model.safetensors", commit="b" * 40, ref=None)  # which of the two is not known
    with pytest.raises(hub.UnreachableError):
        hub.open("owner/model").weights()


def test_weights_of_other_names_and_links_to_nothing_are_named(tmp_path):
    (tmp_path / "model-00001-of-00002.safetensors").write_bytes(b"")
    (tmp_path / "flax_model.msgpack").write_bytes(b"")
    with pytest.raises(FileNotFoundError, match=r"it holds flax_model.msgpack, model-00001-of-0.*"):
        hub.open(tmp_path).weights()
    (tmp_path / "model.safetensors").symlink_to(tmp_path / "gone")
    for action in (lambda r: r.weights(), lambda r: r.path("model.safetensors")):
        with pytest.raises(
            FileNotFoundError, match="model.safetensors is a link to nothing. Fetch"
        ):
            action(hub.open(tmp_path))
    (tmp_path / "pytorch_model.bin").write_bytes(b"")
    assert hub.open(tmp_path).weights().name == "pytorch_model.bin"


PROXIES = ("http_proxy", "https_proxy", "all_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")


@pytest.mark.parametrize("variable", ["ALL_PROXY", "all_proxy", "HTTPS_PROXY", "Https_Proxy"])
def test_a_proxy_is_left_to_the_client_of_the_hub(monkeypatch, variable):
    for name in (*PROXIES, "no_proxy", "NO_PROXY", "MIRO_JAX_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    asked = []
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", lambda *a, **k: asked.append(a) or "x")
    monkeypatch.setattr(tensors, "is_pointer", lambda path: False)
    monkeypatch.setenv("no_proxy", "localhost")  # no proxy itself
    with pytest.raises(hub.UnreachableError):
        hub.open("owner/model").path("config.json")
    monkeypatch.setenv(variable, "http://127.0.0.1:1")
    assert str(hub.open("owner/model").path("config.json")) == "x" and asked
    for none in ("127.0.0.1", "*", "localhost, 127.0.0.1:9"):  # no proxy for this hub
        monkeypatch.setenv("no_proxy", none)
        with pytest.raises(hub.UnreachableError):
            hub.open("owner/model").path("config.json")


def test_an_error_of_the_client_is_one_line_with_its_cause(monkeypatch):
    def without_socks(*_, **__):
        raise ImportError("Using SOCKS proxy, but the 'socksio' package\nis not installed.")

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("MIRO_JAX_OFFLINE", "0")
    monkeypatch.setenv("ALL_PROXY", "socks5://127.0.0.1:1")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", without_socks)
    with pytest.raises(hub.UnreachableError, match=r"reached \(Using SOCKS .* is not installed"):
        hub.open("owner/model").path("config.json")


# Damaged repositories.

POINTER = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 12345\n"
HAWSER = POINTER.replace("git-lfs.github", "hawser.github")
EXTENDED = POINTER.replace("oid", f"ext-0-foo sha256:{'1' * 64}\noid", 1)
FILES = (
    "model.safetensors",
    "pytorch_model.bin",
    "model.pt",
    "config.json",
    "tokenizer.json",
    "spiece.model",
    "vocab.txt",
    "merges.txt",
    "uncond_embedding.npy",
    "model.safetensors.index.json",
)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("pointer", [POINTER, POINTER.replace("\n", "\r\n"), HAWSER, EXTENDED])
def test_a_git_lfs_pointer_is_named_whatever_the_format(tmp_path, name, pointer):
    (tmp_path / name).write_bytes(pointer.encode())
    with pytest.raises(ValueError, match=f"{name} is a Git LFS pointer.*git lfs pull"):
        hub.open(tmp_path).path(name)
    if name.endswith((".safetensors", ".bin", ".pt")):
        with pytest.raises(ValueError, match=f"{name} is a Git LFS pointer"):
            hub.open_file(tmp_path / name)
        with pytest.raises(ValueError, match=f"{name} is a Git LFS pointer"):
            hub.open(tmp_path).tensors()


@pytest.mark.parametrize("wrapper", ["module.", "_orig_mod.", "module._orig_mod.",
                                     "_orig_mod.module."])  # fmt: skip
def test_what_pytorchs_wrappers_put_before_all_keys_is_taken_off(tmp_path, wrapper):
    arrays = {f"{wrapper}{key}": np.ones(2, np.float32) for key in ("module.a", "b")}
    tensors.write_safetensors(tmp_path / "model.safetensors", arrays)
    assert set(hub.open(tmp_path).tensors()) == {"module.a", "b"}


def test_a_folder_of_the_hubs_cache_is_named_with_what_to_give(tmp_path):
    folder = tmp_path / "models--xswu--HPSv2"
    (folder / "snapshots" / ("a" * 40)).mkdir(parents=True)
    with pytest.raises(FileNotFoundError, match=r"cache. Give xswu/HPSv2, or one of .*snapshots/"):
        hub.open(folder)
    with pytest.raises(FileNotFoundError, match=r"cache. Give xswu/HPSv2, or one of .*HPSv2/snaps"):
        hub.open(folder / "snapshots")
    assert hub.open(folder / "snapshots" / ("a" * 40)).is_local


def test_whole_weights_come_before_a_pointer_to_better_ones(tmp_path):
    (tmp_path / "model.safetensors").write_text(POINTER)
    (tmp_path / "pytorch_model.bin").write_bytes(b"PK")
    assert hub.open(tmp_path).weights().name == "pytorch_model.bin"


def test_a_named_pipe_in_place_of_weights_is_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "model.safetensors")
    for action in (
        lambda: hub.open(tmp_path).tensors(),
        lambda: hub.open(tmp_path).digest(),
        lambda: hub.open_file(tmp_path / "model.safetensors"),
    ):
        with pytest.raises(ValueError, match="must be a regular file; it is a named pipe"):
            action()


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/b", ".."])
def test_an_index_names_files_beside_it_only(tmp_path, name):
    (tmp_path.parent / "secret").write_bytes(b"x")
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"x": name}}))
    for action in (hub.open(tmp_path).tensors, hub.open(tmp_path).digest):
        with pytest.raises(ValueError, match="outside of its folder"):
            action()


@pytest.mark.parametrize(
    "text, said",
    [
        ("[]", "must be an object"),
        ('{"weight_map": 3}', "weight_map must be an object; got 3"),
        ('{"weight_map": {"x": null}}', "weight_map.x must be a string"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_damaged_index_is_named(tmp_path, text, said):
    (tmp_path / "model.safetensors.index.json").write_text(text)
    with pytest.raises(ValueError, match=f"model.safetensors.index.json.*{said}"):
        hub.open(tmp_path).digest()


def test_the_digest_depends_on_every_file_of_the_weights(tmp_path):
    index = {"weight_map": {"x": "one.safetensors", "y": "two.safetensors"}}
    digests = set()
    for number, (one, two) in enumerate((("1", "2"), ("1", "3"), ("3", "2"))):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "model.safetensors.index.json").write_text(json.dumps(index))
        (folder / "one.safetensors").write_text(one)
        (folder / "two.safetensors").write_text(two)
        digests.add(hub.open(folder).digest())
    assert len(digests) == 3
