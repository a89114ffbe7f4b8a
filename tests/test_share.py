"""Networks are pushed to a hub with a card, weights are pulled from one: a hub on this machine."""

import hashlib
import json
import signal

import numpy as np
import pytest
from huggingface_hub import constants

from configs import base as configs
from miro_jax.cli import pull, weights
from miro_jax.data.storage import Damaged
from miro_jax.pretrained.weights import tensors
from miro_jax.sample import export, model_card, trained
from miro_jax.sample.pipeline import MiroPipeline
from tests import fake_hub
from tests.sampling import NAMES, save_tiny

NAME = "someone/mine"


@pytest.fixture
def hub(monkeypatch):
    with fake_hub.serve() as server:
        monkeypatch.setattr(constants, "ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)
        yield server


@pytest.fixture
def exported(tmp_path):
    folder = tmp_path / "exported"
    folder.mkdir()
    (folder / "config.json").write_text('{"network": {}}')
    tensors.write_safetensors(folder / "model.safetensors", {"x": np.arange(9, dtype=np.float32)})
    (folder / "uncond_embedding.npy").write_bytes(b"npy")
    (folder / "README.md").write_text("---\nlibrary_name: miro_jax\n---\n# mine\n")
    (folder / "notes.txt").write_text("mine alone")
    return folder


def test_a_pushed_folder_comes_back_as_it_was(hub, exported, tmp_path, capsys):
    assert export.push_to_hub(exported, NAME, private=True).endswith(NAME)
    assert set(hub.repositories[NAME]) == {p.name for p in exported.iterdir()} - {"notes.txt"}
    cache = tmp_path / "cache"
    assert weights.main(["pull", NAME, f"--to={cache}"]) == 0
    out, err = capsys.readouterr()
    digest = hashlib.sha256((exported / "model.safetensors").read_bytes()).hexdigest()
    assert f"{NAME}/model.safetensors  sha256:{digest}" in out and "3 files" in err
    (snapshot,) = (cache / "models--someone--mine" / "snapshots").iterdir()
    for name in ("config.json", "model.safetensors", "uncond_embedding.npy"):
        assert (snapshot / name).read_bytes() == (exported / name).read_bytes()


@pytest.mark.slow
def test_a_pushed_network_is_loaded_by_its_hub_id(hub, tmp_path, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    folder = save_tiny(tmp_path / "tiny")
    (folder / "README.md").write_text("---\nlibrary_name: miro_jax\n---\n")
    export.push_to_hub(folder, NAME)
    pipe = MiroPipeline.from_pretrained(NAME)
    assert pipe.reward_names == NAMES and f"{NAME} sha256:" in pipe.trained.name
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)  # it is in the cache now
    assert trained.peek(NAME)[0] == NAMES


def test_a_pull_that_is_stopped_ends_in_one_line(monkeypatch, capsys):
    monkeypatch.setattr(pull, "pull", lambda *_: signal.raise_signal(signal.SIGINT))
    assert weights.main(["pull", NAME]) == 130
    err = capsys.readouterr().err
    assert err.endswith(": error: stopped; the same command resumes from here.\n")
    assert err.count("\n") == 1
    assert weights.main(["pull", NAME, "--dry-run"]) == 130
    assert capsys.readouterr().err.endswith(": error: stopped.\n")


def test_a_dry_run_prints_sizes_and_fetches_nothing(hub, tmp_path, capsys):
    files = {"config.json": b"{}", "model.safetensors": b"x" * 1234, "pytorch_model.bin": b"y"}
    hub.repositories["nicolas-dufour/miro"] = files | {"uncond_embedding.npy": b"z"}
    assert weights.main(["pull", "miro", f"--to={tmp_path / 'cache'}", "--dry-run"]) == 0
    out, err = capsys.readouterr()
    assert "1,234  nicolas-dufour/miro/model.safetensors" in out and "pytorch_model" not in out
    assert "3 files" in err and not (tmp_path / "cache").exists()
    assert not [path for _, path in hub.asked if "/resolve/" in path]


@pytest.mark.over_a_second
def test_a_file_that_was_cut_short_is_resumed(hub, tmp_path):
    data = np.random.default_rng(0).bytes(300_000)
    hub.repositories[NAME] = {"config.json": b"{}", "model.safetensors": data}
    hub.cut.add("model.safetensors")
    (file,) = [f for f in pull.look_up(pull.Need(NAME)) if f.name == "model.safetensors"]
    try:
        path = pull.fetch(file, tmp_path)
    except ConnectionError:
        path = pull.fetch(file, tmp_path)
    assert path.read_bytes() == data


def test_a_file_with_another_digest_is_refused_and_removed(hub, tmp_path):
    hub.repositories[NAME] = {"model.safetensors": b"x" * 1000}
    hub.lying.add("model.safetensors")
    (file,) = pull.look_up(pull.Need(NAME, ()))
    with pytest.raises(Damaged, match="must have the SHA-256 [0-9a-f]{64}; got"):
        pull.fetch(file, tmp_path)
    hub.lying.clear()
    assert pull.fetch(file, tmp_path).read_bytes() == b"x" * 1000


def test_weights_in_several_files_are_chosen_by_their_index():
    there = ["model.safetensors.index.json", "config.json", "README.md", "pytorch_model.bin"]
    there += [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    chosen = pull.Need(NAME, ("config.json",), vocabulary=("vocab.txt",)).choose(there)
    assert chosen == ["config.json", there[0], *there[-2:]]
    with pytest.raises(FileNotFoundError, match="holds no weights called model"):
        pull.Need(NAME).choose(["config.json"])


def test_every_reward_and_encoder_can_be_pulled_and_unknown_ones_are_named(capsys):
    known = pull.needs()
    assert {"miro", "sdxl_vae", "flan_t5", "vqa", "vqa@clip-flant5-xl", "hpsv2@2.0"} <= set(known)
    sources = {need.source for need in pull.choose(["all"])}
    assert {"google/flan-t5-xl", "google/flan-t5-xxl", pull.CLIP_H} <= sources
    assert weights.main(["pull", "hpsv3"]) == 2
    err = capsys.readouterr().err
    assert "NAME must be all, a hub id, or some of miro" in err
    assert err.endswith("got hpsv3; did you mean hpsv2?\n")
    assert weights.main(["pull", "clip", "sharpness", "beauty@shapes1"]) == 2
    assert "sharpness and beauty@shapes1 need none: leave them out." in capsys.readouterr().err


@pytest.mark.parametrize("verb", ["list", "convert"])
def test_a_file_that_holds_no_weights_is_a_wrong_argument(tmp_path, capsys, verb):
    table = tmp_path / "scores.csv"
    table.write_text("key,caption\n")
    out = [str(tmp_path / "out.safetensors")] * (verb == "convert")
    assert weights.main([verb, str(table), *out]) == 2
    err = capsys.readouterr().err
    assert f"{table}: this is no PyTorch checkpoint" in err and err.count("\n") == 1


def test_a_hub_that_refuses_is_one_line(hub, exported, monkeypatch, capsys):
    kept = "Finished work is kept: the same command resumes."
    for more, says_so in ([], True), (["--dry-run"], False):  # which keeps nothing
        assert weights.main(["pull", "nobody/nothing", *more]) == 1
        err = capsys.readouterr().err
        assert "nobody/nothing could not be fetched" in err and err.count("\n") == 1
        assert (kept in err) is says_so
    monkeypatch.setattr(fake_hub._Handler, "do_POST", fake_hub._Handler.do_GET)
    with pytest.raises(ConnectionError, match="could not be pushed to someone/mine"):
        export.push_to_hub(exported, NAME)


@pytest.mark.parametrize("name", ["mine", "a/b/c", ""])
def test_a_bad_hub_id_is_refused(exported, name):
    with pytest.raises(ValueError, match="hub id of the form owner/name"):
        export.push_to_hub(exported, name)


def test_a_folder_without_the_layout_is_refused(exported):
    (exported / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match="model.safetensors is missing; miro-jax export"):
        export.push_to_hub(exported, NAME)


def test_the_card_has_rewards_dials_scores_config_and_licences(tmp_path):
    config = configs.get_config("tiny").copy_and_resolve_references().to_dict()
    config["data"]["train_rewards"] = ("beauty", "clip")
    mean = {"mean": 0.5, "low": 0.4, "high": 0.6}
    dial = {"score": [mean] * 2, "level": [mean] * 2, "rank_of_means": 1.0, "rank_of_samples": 0.5}
    dials = {"asked_levels": [0.0, 1.0], "images_per_level": 32, "dials": {"beauty": dial}}
    dials["cross"] = {k: [] for k in ("asked", "measured", "difference", "low", "high")}
    rows = [{"guidance_scale": 1.0, "rewards": {"beauty": {"score": mean, "level": mean}}}]
    results = {"dials": dials, "reward_scores": {"num_images": 8, "rows": rows, "training": {}}}
    entry = {"step": 20, "results": results, "settings": {"sample": {"num_steps": 4}}}
    (tmp_path / "evaluation.json").write_text(json.dumps([{}, entry]))
    card = model_card.write_card(tmp_path, config, 20, NAME, "mit", "CC0")
    assert card.startswith("---\nlicense: mit\nlibrary_name: miro_jax\n")
    assert f'MiroPipeline.from_pretrained("{NAME}")' in card and "from miro import" in card
    assert "| `clip@jina-clip-v2` |" in card and "CC-BY-NC-4.0" in card
    assert "| beauty | 0.500 | 0.500 | 1.00 |" in card and "32 images at each" in card
    assert "| beauty | 1 | 0.5000 (0.4000 to 0.6000) |" in card and '"num_steps": 4' in card
    assert "Licence of the images: CC0" in card or "Licence: CC0" in card
    assert '"learning_rate"' in card


def test_a_card_says_what_is_not_known(tmp_path):
    config = configs.get_config("tiny").copy_and_resolve_references().to_dict()
    card = model_card.write_card(tmp_path, config, None)
    assert "Not measured." in card and "Not evaluated." in card and "not stated" in card
    assert "license:" not in card
