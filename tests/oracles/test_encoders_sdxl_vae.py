"""The image encoder of the paper: pictures to image latents and back, with tiny weights."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from miro_jax.pretrained import encoders
from miro_jax.pretrained.encoders import sdxl_vae
from miro_jax.pretrained.networks import vae_keys
from miro_jax.pretrained.weights import hub
from tests.networks import difference, small_mesh
from tests.oracles import vae as oracle

pytestmark = pytest.mark.slow

# Four levels: 8 pixels a side for one of image latents, as SDXL's.
TINY = {
    "block_out_channels": (4, 8, 8, 8),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
}
SIZE = 24


@pytest.fixture(scope="module", autouse=True)
def quick():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def network():
    return oracle.make(3, **TINY)


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae")
    oracle.save(network, folder)
    return folder


@pytest.fixture(scope="module")
def encoder(folder):
    return encoders.build_image_encoder("sdxl_vae", weights=str(folder), size=SIZE)


def pictures(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


def latents(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def test_pictures_of_any_size_become_the_moments_of_diffusers(encoder, network):
    images = [pictures(h, w, 3, seed=h) for h, w in ((40, 31), (33, 70), (24, 24), (9, 10))]
    mean, std = encoder.encode(images)
    expected = oracle.encode(network, np.stack([oracle.prepare(image, SIZE) for image in images]))
    assert mean.dtype == std.dtype == np.float16
    assert mean.shape == std.shape == (4, *encoder.latent_shape) == (4, 3, 3, 4)
    # Half of a float16's last place.
    assert difference(mean, expected["mean"]) < 5e-4
    assert difference(std, expected["std"]) < 5e-4


@pytest.mark.parametrize("height, width", [(41, 64), (64, 41), (100, 33), (24, 24), (17, 12)])
def test_preparing_equals_torchvision_to_the_pixel(encoder, height, width):
    image = pictures(height, width, 3)
    found = encoder.prepare(image)
    assert found.shape == (SIZE, SIZE, 3) and found.dtype == np.uint8
    np.testing.assert_array_equal(found / np.float32(255) * 2 - 1, oracle.prepare(image, SIZE))


def test_an_array_of_the_right_size_is_encoded_as_its_list_is(encoder):
    images = pictures(3, SIZE, SIZE, 3)
    for one, other in zip(encoder.encode(images), encoder.encode(list(images)), strict=True):
        np.testing.assert_array_equal(one, other)


def test_decoding_equals_diffusers_rounded(encoder, network):
    z = latents(2, 3, 2, 4)
    pictures = oracle.decode(network, z)["pictures"]
    assert pictures.min() < -1 and pictures.max() > 1  # clamping is seen
    expected = np.round((pictures / 2 + 0.5).clip(0, 1) * 255)
    found = encoder.decode(z)
    assert found.dtype == np.uint8 and found.shape == (2, 24, 16, 3)
    # Rounding errors may carry a value over a half.
    assert np.abs(found.astype(int) - expected).max() <= 1
    assert (found != expected).mean() < 1e-3


def test_a_picture_does_not_depend_on_those_beside_it(folder, encoder):
    spread = sdxl_vae.SdxlVaeEncoder(folder, SIZE, mesh=small_mesh(2), batch_size=1)
    z = latents(5, 2, 2, 4)
    np.testing.assert_array_equal(spread.decode(z)[3:4], encoder.decode(z[3:4]))


def test_normalising_gives_the_released_scale_and_is_undone():
    encoder = sdxl_vae.SdxlVaeEncoder()
    stored = np.float16(latents(2, 3, 3, 4))
    # As the release computes it: x 0.5 / sigma - mu 0.5 / sigma.
    scale = 0.5 / np.array([7.8518, 5.8465, 6.8716, 5.3140])
    shift = np.array([-0.3480, 0.3754, 0.0419, 2.4331]) * scale
    expected = stored.astype(np.float64) * scale - shift
    z = encoder.normalize(stored)
    assert z.dtype == np.float32
    np.testing.assert_allclose(z, expected, atol=1e-6)
    np.testing.assert_allclose(encoder.denormalize(z), stored, atol=1e-5)
    inside = jax.jit(lambda x: encoder.denormalize(encoder.normalize(x)))(jnp.float32(stored[0]))
    np.testing.assert_allclose(inside, stored[0], atol=1e-5)


def test_the_identity_names_weights_size_and_dtype(folder, tmp_path):
    def identity(**arguments):
        return sdxl_vae.SdxlVaeEncoder(**{"weights": folder, "size": SIZE} | arguments).identity

    assert identity() == identity(decoder_dtype="bfloat16")  # image latents are the same
    oracle.save(oracle.make(4, **TINY), tmp_path)
    others = [identity(size=32), identity(dtype="bfloat16"), identity(weights=tmp_path)]
    assert len({identity(), *others}) == 4
    assert identity().startswith("sdxl_vae@1-") and f"size{SIZE}" in identity()


def test_only_the_half_that_is_needed_is_read(folder, monkeypatch):
    parts = []
    load = vae_keys.load_vae

    def watched(repository, part, **arguments):
        parts.append(part)
        return load(repository, part, **arguments)

    monkeypatch.setattr(vae_keys, "load_vae", watched)
    encoder = sdxl_vae.SdxlVaeEncoder(folder, SIZE)
    assert encoder.latent_shape == (3, 3, 4) and parts == []
    encoder.encode(pictures(1, SIZE, SIZE, 3))
    assert parts == ["encoder"]
    encoder.decode(latents(1, 1, 1, 4))
    encoder.decode(latents(1, 1, 1, 4))
    assert parts == ["encoder", "decoder"]


def test_bfloat16_stays_close(folder, encoder):
    quick = sdxl_vae.SdxlVaeEncoder(folder, SIZE, dtype="bfloat16", decoder_dtype="bfloat16")
    images, z = pictures(1, SIZE, SIZE, 3), latents(1, 3, 3, 4)
    assert 1e-3 < difference(quick.encode(images)[0], encoder.encode(images)[0]) < 0.1
    assert np.abs(quick.decode(z).astype(int) - encoder.decode(z)).mean() < 4


def test_weights_that_are_not_there_are_said_to_be_missing(tmp_path):
    encoder = sdxl_vae.SdxlVaeEncoder()  # from the hub, and there is no network here
    assert encoder.latent_shape == (32, 32, 4)
    with pytest.raises(hub.OfflineError, match="hf download stabilityai/sdxl-vae --local-dir"):
        encoder.decode(latents(1, 1, 1, 4))
    with pytest.raises(FileNotFoundError, match="has no file config.json"):
        sdxl_vae.SdxlVaeEncoder(tmp_path).encode(pictures(1, 256, 256, 3))
    with pytest.raises(FileNotFoundError, match="no existing folder"):
        sdxl_vae.SdxlVaeEncoder(tmp_path / "nowhere")


def test_other_autoencoders_are_refused(tmp_path):
    oracle.save(oracle.make(0, **TINY | {"block_out_channels": (4, 8)}), tmp_path)
    with pytest.raises(ValueError, match="8 pixels a side .* got 2 and 4"):
        sdxl_vae.SdxlVaeEncoder(tmp_path, SIZE).decode(latents(1, 1, 1, 4))


def test_a_damaged_file_is_an_error(folder, tmp_path):
    shutil.copytree(folder, tmp_path, dirs_exist_ok=True)
    file = tmp_path / "diffusion_pytorch_model.safetensors"
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(ValueError, match="cut short"):
        sdxl_vae.SdxlVaeEncoder(tmp_path, SIZE).encode(pictures(1, SIZE, SIZE, 3))


def test_bad_arguments_are_refused(encoder):
    for arguments, message in (
        ({"size": 20}, "multiple of 8 pixels; got 20"),
        ({"batch_size": 0}, "at least 1 image; got 0"),
        ({"decoder_dtype": "float16"}, "float32, bfloat16; got 'float16'"),
    ):
        with pytest.raises(ValueError, match=message):
            sdxl_vae.SdxlVaeEncoder(**arguments)
    for images, kind, message in (
        (np.zeros((1, SIZE, SIZE, 3)), TypeError, "uint8 .* got float64"),
        ([], TypeError, "uint8 .* got list"),
        ([np.zeros((4, 4), np.uint8)], ValueError, r"\[H, W, 3\]; got \(4, 4\)"),
        (pictures(1, 16, SIZE, 3), ValueError, r"\[B, 24, 24, 3\]; got \(1, 16, 24, 3\)"),
        (pictures(0, SIZE, SIZE, 3), ValueError, "B at least 1"),
    ):
        with pytest.raises(kind, match=message):
            encoder.encode(images)
    for z in (latents(1, 2, 2, 3), latents(2, 2, 4), latents(0, 2, 2, 4)):
        with pytest.raises(ValueError, match=r"\[B, h, w, 4\]"):
            encoder.decode(z)
    with pytest.raises(ValueError, match="4 channels"):
        encoder.normalize(latents(1, 2, 2, 3))
