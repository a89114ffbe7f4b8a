"""SDXL's autoencoder against diffusers, stage by stage, and its strict loader."""

import fractions
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from miro_jax.models import sharding
from miro_jax.pretrained.networks import cpu, vae, vae_keys
from miro_jax.pretrained.networks.vae_keys import load_vae
from miro_jax.pretrained.weights import hub, tensors
from tests.networks import difference, small_mesh
from tests.oracles import vae as oracle

pytestmark = pytest.mark.slow

# Three levels of different widths, one resnet a level; groups of several channels.
TINY = {
    "block_out_channels": (8, 16, 24),
    "layers_per_block": 1,
    "latent_channels": 4,
    "norm_num_groups": 4,
}
FILE = "diffusion_pytorch_model.safetensors"
TOLERANCE = 1e-5


@pytest.fixture(scope="module", autouse=True)
def quick():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def network():
    return oracle.make(0, **TINY)


@pytest.fixture(scope="module")
def folder(network, tmp_path_factory):
    folder = tmp_path_factory.mktemp("vae")
    oracle.save(network, folder)
    return folder


def copy(folder, target, change=lambda key, value: (key, value), **config):
    """Copy a model; `change` gives the new key and value of each tensor, or None."""
    read = tensors.open_safetensors(folder / FILE)
    pairs = [change(key, tensor.read()) for key, tensor in read.items()]
    tensors.write_safetensors(target / FILE, dict(pair for pair in pairs if pair))
    whole = json.loads((folder / "config.json").read_text("utf-8")) | config
    (target / "config.json").write_text(json.dumps(whole), "utf-8")
    return hub.open(target)


def encoder_stages(encoder, images):
    """What `oracle.encode` gives."""
    conv_in = encoder.conv_in(images)
    x = level0 = encoder.levels[0](conv_in)
    for level in list(encoder.levels)[1:]:
        x = level(x)
    mean, log_variance = encoder(images)
    stages = {"conv_in": conv_in, "level0": level0, "middle": encoder.middle(x)}
    return stages | {"mean": mean, "log_variance": log_variance}


def call(half, x):
    return half(x)


def decoder_stages(decoder, latents):
    """What `oracle.decode` gives."""
    stages = {"conv_in": decoder.conv_in(decoder.latents(latents))}
    x = stages["middle"] = decoder.middle(stages["conv_in"])
    for i in range(2):
        x = stages[f"level{i}"] = decoder.levels[i](x)
    return stages | {"pictures": decoder(latents)}


def run(function, loaded, x):
    """Call a function of (module, array) under jit."""

    @jax.jit
    def jitted(state, x):
        return function(nnx.merge(loaded.graphdef, state), x)

    return jax.tree.map(np.asarray, jitted(loaded.state, x))


def draw(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("shape", [(2, 16, 24, 3), (1, 19, 14, 3)])
def test_the_encoder_equals_diffusers_stage_by_stage(network, folder, shape):
    images = np.clip(draw(*shape), -1, 1)
    expected = oracle.encode(network, images)
    found = run(encoder_stages, load_vae(hub.open(folder), "encoder"), images)
    assert found["mean"].shape == (shape[0], shape[1] // 4, shape[2] // 4, 4)
    for name, value in found.items():
        assert difference(value, expected[name]) < TOLERANCE, name


@pytest.mark.parametrize("shape", [(2, 4, 6, 4), (1, 5, 3, 4)])
def test_the_decoder_equals_diffusers_stage_by_stage(network, folder, shape):
    latents = draw(*shape)
    expected = oracle.decode(network, latents)
    found = run(decoder_stages, load_vae(hub.open(folder), "decoder"), latents)
    assert found["pictures"].shape == (shape[0], shape[1] * 4, shape[2] * 4, 3)
    for name, value in found.items():
        assert difference(value, expected[name]) < TOLERANCE, name


def test_wide_levels_equal_diffusers_too(tmp_path):
    """With so many channels, a CPU takes the roads that save multiplications."""
    wide = oracle.make(1, **TINY | {"block_out_channels": (64, 64)})
    oracle.save(wide, tmp_path)
    encoder, decoder = (load_vae(hub.open(tmp_path), part) for part in ("encoder", "decoder"))
    images, latents = np.clip(draw(1, 12, 10, 3), -1, 1), draw(1, 6, 5, 4)
    mean, log_variance = run(call, encoder, images)
    pictures = run(call, decoder, latents)
    expected = oracle.encode(wide, images) | oracle.decode(wide, latents)
    # Each of the 15 convolutions in a row adds up to 3e-6.
    assert difference(mean, expected["mean"]) < TOLERANCE
    assert difference(log_variance, expected["log_variance"]) < TOLERANCE
    assert difference(pictures, expected["pictures"]) < TOLERANCE


@pytest.mark.parametrize("shape", [(2, 8, 6, 5), (1, 7, 9, 3), (1, 1, 1, 2)])
def test_convolutions_with_fewer_products_equal_the_direct_sum(shape):
    x, kernel = draw(*shape), draw(3, 3, shape[-1], 4, seed=1)
    for double, functions in (
        (False, (cpu.direct, cpu.by_tiles)),
        (True, (cpu.doubled, cpu.doubled_by_differences)),
    ):
        expected = oracle.convolve(x.astype(np.float64), kernel.astype(np.float64), double)
        for function in functions:
            assert difference(function(x, kernel), expected) < TOLERANCE, function.__name__


@pytest.mark.parametrize("scaling", [None, "double"])
def test_only_wide_float32_convolutions_on_cpus_take_other_roads(scaling):
    def convolutions(platform, channels, dtype):
        def convolve(x):
            return vae.Conv(channels, channels, scaling, rngs=nnx.Rngs(params=0), dtype=dtype)(x)

        with sharding.use_mesh(small_mesh()):
            traced = jax.jit(convolve).trace(jnp.zeros((1, 8, 8, channels)))
            return traced.lower(lowering_platforms=(platform,)).as_text().count("convolution(")

    few, wide = cpu.FEWEST_CHANNELS - 1, cpu.FEWEST_CHANNELS
    assert convolutions("cpu", wide, jnp.float32) == (0 if scaling else 6)
    assert convolutions("cpu", few, jnp.float32) == 1
    assert convolutions("cpu", wide, jnp.bfloat16) == 1
    assert convolutions("cuda", wide, jnp.float32) == 1
    assert convolutions("tpu", wide, jnp.float32) == 1


def test_the_matrices_of_tiles_are_exact():
    """y = A^T ((G g) (B^T d)) is the convolution for all d and g, so for all pairs of units."""
    matrices = (cpu.FROM_PRODUCTS, cpu.OF_KERNEL, cpu.OF_ROWS)
    from_products, of_kernel, of_rows = (
        [[fractions.Fraction(v).limit_denominator(24) for v in row] for row in m] for m in matrices
    )
    for i in range(4):
        for j in range(3):
            for k in range(6):
                terms = zip(from_products[i], of_kernel, of_rows, strict=True)
                assert sum(a * g[j] * d[k] for a, g, d in terms) == (k == i + j)


@pytest.mark.parametrize(("bias", "expected"), [(99, 20), (-99, -30)])
def test_the_log_variance_is_clamped(folder, tmp_path, bias, expected):
    def change(key, value):
        return key, np.float32([0] * 4 + [bias] * 4) if key == "quant_conv.bias" else value

    encoder = load_vae(copy(folder, tmp_path, change), "encoder")
    _, log_variance = run(call, encoder, draw(1, 8, 8, 3))
    np.testing.assert_array_equal(log_variance, np.full((1, 2, 2, 4), expected))


def test_halving_pads_below_and_on_the_right_only():
    with sharding.use_mesh(small_mesh()):
        conv = vae.Conv(1, 1, "halve", rngs=nnx.Rngs(params=0))
        conv.kernel[...] = jnp.ones((3, 3, 1, 1))
        y = conv(jnp.ones((1, 4, 4, 1)))
    np.testing.assert_array_equal(y[0, :, :, 0], [[9, 6], [6, 4]])


def test_bfloat16_stays_close_and_keeps_norms_in_float32(network, folder):
    latents = draw(1, 4, 6, 4)
    decoder = load_vae(hub.open(folder), "decoder", dtype="bfloat16")
    kinds = {
        "/".join(map(str, path)): leaf.get_raw_value().dtype
        for path, leaf in nnx.to_flat_state(decoder.state)
    }
    assert kinds["levels/0/resnets/1/norm2/scale"] == kinds["norm_out/bias"] == jnp.float32
    assert kinds["middle/attention/norm/scale"] == kinds["latents/kernel"] == jnp.float32
    assert kinds["conv_in/kernel"] == kinds["middle/attention/q/bias"] == jnp.bfloat16
    found = run(decoder_stages, decoder, latents)["pictures"]
    assert found.dtype == np.float32
    assert 1e-4 < difference(found, oracle.decode(network, latents)["pictures"]) < 0.05


@pytest.mark.parametrize("part", ["encoder", "decoder"])
@pytest.mark.parametrize("as_convolutions", [False, True])
def test_old_names_of_the_attention_are_read(network, folder, tmp_path, as_convolutions, part):
    new = ("to_q.", "to_k.", "to_v.", "to_out.0.")
    old = ("query.", "key.", "value.", "proj_attn.")

    def change(key, value):
        for ours, theirs in zip(new, old, strict=True):
            if ours in key:
                key = key.replace(ours, theirs)
                if as_convolutions and value.ndim == 2:
                    value = value[:, :, None, None]
        return key, value

    found = load_vae(copy(folder, tmp_path, change), part)
    assert any("proj_attn" in key for key in tensors.open_safetensors(tmp_path / FILE))
    expected = load_vae(hub.open(folder), part)
    jax.tree.map(np.testing.assert_array_equal, found.state, expected.state)


def test_a_missing_tensor_is_an_error_of_its_own_half(folder, tmp_path):
    def change(key, value):
        return None if key == "decoder.conv_in.bias" else (key, value)

    repository = copy(folder, tmp_path, change)
    with pytest.raises(ValueError, match="conv_in/bias .* is not given"):
        load_vae(repository, "decoder")
    load_vae(repository, "encoder")


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_foreign_tensor_is_an_error(folder, tmp_path, part):
    def change(key, value):
        return key.replace(f"{part}.conv_in", f"{part}.odd"), value

    with pytest.raises(ValueError, match=f"{part}.odd.bias .* has no place"):
        load_vae(copy(folder, tmp_path, change), part)


def test_wrong_sizes_are_an_error_with_both_shapes(folder, tmp_path):
    repository = copy(folder, tmp_path, block_out_channels=[8, 16, 32])
    with pytest.raises(ValueError, match=r"\(24,\) does not fit .* \(32,\)"):
        load_vae(repository, "encoder")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"_class_name": "AsymmetricAutoencoderKL"}, "_class_name = 'AutoencoderKL'"),
        ({"act_fn": "relu"}, "act_fn = 'silu'"),
        ({"mid_block_add_attention": False}, "mid_block_add_attention = True"),
        ({"use_quant_conv": False}, "use_quant_conv = True"),
        ({"up_block_types": ["AttnUpDecoderBlock2D"] * 3}, "up_block_types"),
    ],
)
def test_other_autoencoders_are_refused(changes, message):
    config = {**TINY, "in_channels": 3, "out_channels": 3}
    assert vae_keys.parse_config(config).factor == 4
    with pytest.raises(ValueError, match=message):
        vae_keys.parse_config(config | changes)
    with pytest.raises(ValueError, match="norm_num_groups"):
        vae_keys.parse_config({k: v for k, v in config.items() if k != "norm_num_groups"})


def test_unknown_scaling_and_odd_groups_are_refused():
    with pytest.raises(ValueError, match="'halve' or 'double'; got 'triple'"):
        vae.Conv(3, 3, "triple", rngs=nnx.Rngs(params=0))
    with pytest.raises(ValueError, match="10 channels and 4 groups"):
        vae.GroupNorm(10, 4)
