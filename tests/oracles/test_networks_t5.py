"""T5 equals transformers', stage by stage; its keys are read strictly."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from miro_jax.models import sharding
from miro_jax.pretrained.networks import t5, t5_keys
from miro_jax.pretrained.weights.tensors import from_arrays
from tests.networks import difference
from tests.oracles import t5 as oracles

pytestmark = pytest.mark.slow

TOLERANCE = 1e-5


@pytest.fixture(scope="module", autouse=True)
def compile_quickly():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def oracle():
    return oracles.Oracle(oracles.TINY, seed=0)


def load(kind, oracle, tensors=None, dtype="float32"):
    given = from_arrays(oracle.tensors() if tensors is None else tensors)
    config, encoder_only = t5_keys.parse_config(oracle.config()), kind is t5.T5Encoder
    return t5_keys.load(given, config, encoder_only=encoder_only, dtype=dtype)


def run(network, function, *arrays):
    def call(state, *arrays):
        return function(nnx.merge(network.graphdef, state), *arrays)

    with sharding.use_mesh(network.mesh):
        return jax.tree.map(np.asarray, jax.jit(call)(network.state, *arrays))


def draw_ids(rows, length, seed, ragged=True):
    rng = np.random.default_rng(seed)
    ids = rng.integers(1, oracles.TINY["vocab_size"], (rows, length)).astype(np.int32)
    lengths = rng.integers(1, length + 1, rows)
    lengths[0] = length
    mask = np.arange(length)[None] < lengths[:, None]
    return ids, mask if ragged else np.ones_like(mask)


def encoder_stages(module, ids, mask):
    embedded = module.embed(ids)
    wide, bias = mask[:, None, None, :], module.encoder.bias(ids.shape[1])
    return {
        "embedding": embedded,
        "first block": module.encoder.blocks[0](embedded, bias, wide),
        "end": module(ids, mask),
        "bias": bias,
    }


def decoder_stages(module, ids, encoded, mask):
    stack, length = module.decoder, ids.shape[1]
    past, wide = jnp.tri(length, dtype=bool)[None, None], mask[:, None, None, :]
    bias, embedded = stack.bias(length), module.embed(ids)
    return {
        "first block": stack.blocks[0](embedded, bias, past, encoded, wide),
        "end": stack(embedded, past, encoded, wide),
        "logits": module.decode(ids, encoded, mask),
        "bias": bias,
    }


@pytest.mark.parametrize("length", [7, 300])  # 300 reaches every bucket
def test_encoder_equals_transformers_at_each_stage(oracle, length):
    ids, mask = draw_ids(3, length, seed=length)
    ours = run(load(t5.T5Encoder, oracle), encoder_stages, ids, mask)
    theirs = oracle.encoder_stages(ids, mask)
    assert difference(ours["bias"], theirs["bias"]) == 0
    for stage in ("embedding", "first block", "end"):
        assert difference(ours[stage][mask], theirs[stage][mask]) <= TOLERANCE, stage


def test_encoder_equals_the_class_without_decoder(oracle):
    ids, mask = draw_ids(2, 9, seed=5)
    ours = run(load(t5.T5Encoder, oracle), t5.T5Encoder.__call__, ids, mask)
    theirs = oracles.encode_alone(oracle, ids, mask)
    assert difference(ours[mask], theirs[mask]) <= TOLERANCE


@pytest.mark.parametrize("length", [2, 40])
def test_decoder_equals_transformers_at_each_stage(oracle, length):
    ids, _ = draw_ids(3, length, seed=2)
    rng = np.random.default_rng(3)
    encoded = rng.normal(size=(3, 6, oracles.TINY["d_model"])).astype(np.float32)
    mask = np.arange(6)[None] < np.array([6, 1, 4])[:, None]
    ours = run(load(t5.T5, oracle), decoder_stages, ids, encoded, mask)
    theirs = oracle.decoder_stages(ids, encoded, mask)
    for stage in theirs:
        assert difference(ours[stage], theirs[stage]) <= TOLERANCE, stage


def test_whole_model_equals_transformers(oracle):
    ids, mask = draw_ids(4, 11, seed=6)
    said = np.array([[0, 17], [0, 5], [0, 99], [0, 1]], np.int32)

    def logits(module, ids, mask, said):
        return module.decode(said, module(ids, mask), mask)

    ours = run(load(t5.T5, oracle), logits, ids, mask, said)
    assert difference(ours, oracle.logits(ids, mask, said)) <= TOLERANCE


def test_no_weight_of_the_oracle_is_at_its_start_value(oracle):
    """Otherwise a weight that both sides ignore, or swap, would go unseen."""
    tensors = oracle.tensors()
    assert not np.array_equal(tensors["lm_head.weight"], tensors["shared.weight"])
    for key, value in tensors.items():
        assert len(np.unique(value)) > 0.9 * value.size, key


@pytest.mark.parametrize("exact, buckets, limit", [(8, 16, 128), (16, 32, 128), (5, 10, 20)])
def test_buckets_grow_from_one_by_one_to_the_largest_distance(exact, buckets, limit):
    found = t5.bucket_distances(np.arange(4 * limit), buckets, limit)
    assert found[:exact].tolist() == list(range(exact))
    assert (np.diff(found) >= 0).all() and (np.diff(found) <= 1).all()
    assert (found[limit:] == buckets - 1).all() and found[exact] == exact


def test_hidden_tokens_change_nothing(oracle):
    ids, mask = draw_ids(3, 9, seed=7)
    network = load(t5.T5Encoder, oracle)
    other = np.where(mask, ids, (ids + 1) % oracles.TINY["vocab_size"]).astype(np.int32)
    ours = run(network, t5.T5Encoder.__call__, ids, mask)
    np.testing.assert_array_equal(
        run(network, t5.T5Encoder.__call__, other, mask)[mask], ours[mask]
    )


def test_bfloat16_is_close_and_keeps_norms_and_tables_exact(oracle):
    ids, mask = draw_ids(3, 9, seed=8)
    network = load(t5.T5, oracle, dtype="bfloat16")
    kinds = {str(leaf.dtype) for leaf in jax.tree.leaves(network.state)}
    assert kinds == {"bfloat16", "float32"}
    assert network.state["encoder"]["norm"]["scale"][...].dtype == jnp.float32
    assert network.state["decoder"]["table"][...].dtype == jnp.float32
    ours = run(network, t5.T5Encoder.__call__, ids, mask)
    assert ours.dtype == np.float32
    exact = run(load(t5.T5Encoder, oracle), t5.T5Encoder.__call__, ids, mask)
    assert 1e-4 < difference(ours[mask], exact[mask]) < 0.1


@pytest.mark.parametrize("name", t5_keys.ALIASES)
def test_the_embedding_is_found_under_each_of_its_names(oracle, name):
    tensors = oracle.tensors()
    tensors[name] = tensors["shared.weight"].copy()
    assert sorted(t5_keys.merge_aliases(from_arrays(tensors))) == sorted(oracle.tensors())
    alone = tensors.pop("shared.weight")
    merged = t5_keys.merge_aliases(from_arrays(tensors))
    np.testing.assert_array_equal(merged["shared.weight"].read(), alone)


def test_two_different_embeddings_are_refused(oracle):
    tensors = oracle.tensors()
    tensors["embed_tokens.weight"] = tensors["shared.weight"] + 1
    with pytest.raises(ValueError, match="embed_tokens.weight must be a copy of shared.weight"):
        t5_keys.merge_aliases(from_arrays(tensors))


def test_conversion_is_strict_and_ignores_the_decoder_by_name(oracle):
    tensors = oracle.tensors()
    tensors["encoder.block.0.layer.2.extra.weight"] = np.zeros(1, np.float32)
    with pytest.raises(ValueError, match="extra.weight .* has no place"):
        load(t5.T5Encoder, oracle, tensors)
    tensors = oracle.tensors()
    del tensors["encoder.block.2.layer.1.DenseReluDense.wi_1.weight"]
    with pytest.raises(ValueError, match=r"encoder/blocks/2/mlp/value/kernel \(24, 40\) is not"):
        load(t5.T5, oracle, tensors)


def test_unused_table_of_old_files_is_ignored(oracle):
    tensors = oracle.tensors()
    key = "decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"
    tensors[key] = np.zeros((32, 4), np.float32)
    load(t5.T5, oracle, tensors)


@pytest.mark.parametrize(
    "change, error",
    [
        ({"feed_forward_proj": "relu"}, "feed_forward_proj = 'gated-gelu'.*got 'relu'"),
        ({"feed_forward_proj": "gated-silu"}, "got 'gated-silu'"),
        ({"tie_word_embeddings": True}, "tie_word_embeddings = False.*got True"),
        ({"d_kv": None}, "must have the key 'd_kv'"),
    ],
)
def test_other_kinds_of_t5_are_refused_by_name(oracle, change, error):
    config = {k: v for k, v in (oracle.config() | change).items() if v is not None}
    with pytest.raises(ValueError, match=error):
        t5_keys.parse_config(config)


def test_decoder_has_the_depth_of_the_encoder_where_the_config_names_none(oracle):
    config = oracle.config()
    del config["num_decoder_layers"]
    assert t5_keys.parse_config(config).decoder_blocks == 3
