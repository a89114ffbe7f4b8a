"""A release as a user meets it: folders in, labelled pictures out, and errors that help."""

import warnings
from unittest import mock

import huggingface_hub
import numpy as np
import pytest
from huggingface_hub import errors
from PIL import Image

from miro_jax import MiroPipeline
from miro_jax.pretrained.networks import t5
from miro_jax.pretrained.weights import hub
from miro_jax.sample import trained
from tests.networks import difference, paths, small_mesh
from tests.oracles import releases

pytestmark = pytest.mark.slow

PROMPTS = ["a red fox in snow", "a robot"]
SETTINGS = {"num_steps": 2, "seed": 3}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return releases.make(tmp_path_factory.mktemp("release"))


def load(files, **settings):
    return MiroPipeline.from_pretrained(
        files.miro, text_encoder=files.text_encoder, vae=files.vae, **settings
    )


@pytest.fixture(scope="module")
def pipe(files):
    return load(files, batch_size=2)


def test_pictures_come_as_pil_images(pipe):
    pictures = pipe(PROMPTS, 2, targets={"aesthetic": 0.6}, **SETTINGS)
    assert [type(p) for p in pictures] == [Image.Image] * 4
    assert {p.size for p in pictures} == {(64, 64)}
    assert len({p.tobytes() for p in pictures}) == 4


def test_output_types_are_steps_of_one_way(pipe):
    pil, numbers, latents = (
        pipe(PROMPTS, output_type=kind, **SETTINGS) for kind in ("pil", "numpy", "latent")
    )
    assert numbers.shape == (2, 64, 64, 3) and numbers.dtype == np.uint8
    assert latents.shape == (2, 8, 8, 4) and latents.dtype == np.float32
    np.testing.assert_array_equal(np.stack([np.asarray(p) for p in pil]), numbers)
    np.testing.assert_array_equal(pipe.decode(latents), numbers)


def test_given_embeddings_and_noise_stand_for_prompts_and_seed(pipe):
    tokens, mask = pipe.trained.caption_encoder.encode_padded(PROMPTS, np.float32)
    by_prompt = pipe(PROMPTS, output_type="latent", **SETTINGS)
    given = {"prompt_embeds": tokens, "prompt_mask": mask}
    np.testing.assert_array_equal(pipe(output_type="latent", **given, **SETTINGS), by_prompt)
    noise = np.random.default_rng(0).normal(size=(2, 8, 8, 4))
    drawn, again = (
        pipe(PROMPTS, output_type="latent", noise=noise, num_steps=2, seed=seed) for seed in (0, 1)
    )
    np.testing.assert_array_equal(drawn, again)
    assert np.abs(drawn - by_prompt).max() > 0.1


def test_the_caption_encoder_is_loaded_when_a_prompt_comes(files, monkeypatch):
    built = []
    original = t5.T5Encoder.__init__
    monkeypatch.setattr(
        t5.T5Encoder, "__init__", lambda *a, **kw: (built.append(1), original(*a, **kw))[1]
    )
    pipe = load(files)
    width = pipe.trained.config.caption_width
    pipe(prompt_embeds=np.zeros((1, 3, width)), output_type="latent", num_steps=1)
    assert not built
    pipe("a fox", output_type="latent", num_steps=1)
    assert built


def test_a_prompt_over_the_limit_is_cut_with_a_warning(pipe):
    long = "fox " * 200
    with pytest.warns(UserWarning, match=r"A prompt has \d+ tokens and the network sees 77"):
        pipe([long], output_type="latent", **SETTINGS)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        pipe(PROMPTS, output_type="latent", **SETTINGS)


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"targets": {"beauty": 1}}, "Unknown reward 'beauty'; this model knows: clip, aesthetic,"),
        ({"output_type": "jpeg"}, "output_type must be one of .*; got 'jpeg'"),
        ({"guidance_interval": (0.8, 0.2)}, "guidance_interval must be"),
        ({"noise": np.zeros((1, 8, 8, 3))}, r"noise must be \[2, 8, 8, 4\]; got \[1, 8, 8, 3\]"),
        ({"prompts": None}, "either prompts or prompt_embeds must be given"),
        ({"prompt_embeds": np.zeros((2, 3, 24))}, "and not both"),
        (
            {"prompts": None, "prompt_embeds": np.zeros((2, 3, 7))},
            r"prompt_embeds must be \[P, L, 24\] .*; got \[2, 3, 7\]",
        ),
    ],
)
def test_bad_arguments_are_named(pipe, changes, said):
    with pytest.raises(ValueError, match=said):
        pipe(**({"prompts": PROMPTS} | changes))


def test_bfloat16_gives_nearly_the_same_picture(files, pipe):
    half = load(files, dtype="bfloat16", batch_size=2)
    ours, theirs = (p(PROMPTS, output_type="latent", **SETTINGS) for p in (half, pipe))
    assert np.abs(ours - theirs).mean() < 0.05 * np.abs(theirs).mean()
    assert np.abs(ours - theirs).max() > 0


def test_an_exported_release_is_loaded_again_with_its_own_encoders(files, pipe, tmp_path):
    encoders = {
        "image": {"name": "sdxl_vae", "weights": str(files.vae), "size": 64},
        "caption": {"name": "flan_t5", "weights": str(files.text_encoder), "max_tokens": 77},
    }
    trained.export(pipe.trained, tmp_path, encoders)
    again = MiroPipeline.from_pretrained(tmp_path, batch_size=2)
    np.testing.assert_array_equal(
        again(PROMPTS, output_type="numpy", **SETTINGS),
        pipe(PROMPTS, output_type="numpy", **SETTINGS),
    )


def test_pictures_over_a_mesh_equal_those_of_one_device(files, pipe):
    split = load(files, mesh=small_mesh(2, 2), batch_size=2)
    kernel = paths(split.weights[0])["blocks/0/read/kv/kernel"]
    assert len({str(shard.index) for shard in kernel.addressable_shards}) == 4  # along both axes
    ours, theirs = (p(PROMPTS, output_type="latent", **SETTINGS) for p in (split, pipe))
    assert difference(ours, theirs) <= 1e-5
    with pytest.raises(ValueError, match="batch_size must be a positive multiple of the 2 devices"):
        load(files, mesh=small_mesh(2, 2), batch_size=3)


def test_only_the_files_that_are_needed_are_fetched_one_by_one(files, monkeypatch):
    fetched = []

    def fetch(repository, name, revision=None):
        folder = {"owner/miro": files.miro, "owner/vae": files.vae}[repository]
        fetched.append((repository, name, revision))
        if not (folder / name.removeprefix("miro-no-clip/")).is_file():
            raise errors.RemoteEntryNotFoundError(name, response=mock.Mock())
        return str(folder / name.removeprefix("miro-no-clip/"))

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", fetch)
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(hub, "is_offline", lambda: False)
    monkeypatch.setattr(hub, "_connect", lambda: None)
    pipe = MiroPipeline.from_pretrained("owner/miro", "no_clip", vae="owner/vae", revision="v1")
    assert pipe.trained.name.startswith("owner/miro@v1/miro-no-clip sha256:")
    folder = "miro-no-clip/"
    assert list(dict.fromkeys(fetched)) == [
        ("owner/miro", folder + name, "v1")
        for name in ("config.json", "model.safetensors", "uncond_embedding.npy")
    ]
    width = pipe.trained.config.caption_width
    pipe(prompt_embeds=np.zeros((1, 3, width)), num_steps=1)
    assert {name for repository, name, _ in fetched if repository == "owner/vae"} == {
        "config.json",
        "diffusion_pytorch_model.safetensors",
    }
