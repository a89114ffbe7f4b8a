"""Our XLM-RoBERTa with rotary positions against Hugging Face's, LoRA merged, stage by stage."""

import numpy as np
import pytest

from miro_jax.pretrained.networks import xlm_roberta_keys
from miro_jax.pretrained.networks.tower import Tower
from miro_jax.pretrained.weights.lora import merge_lora
from miro_jax.pretrained.weights.tensors import from_arrays
from tests.networks import difference
from tests.oracles import jina
from tests.oracles.towers import (
    after_one_block,
    all_tokens,
    assert_half_precision_is_close,
    before_blocks,
    call,
)

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("precise")]

# No two sizes are equal; the base is small, so that places matter in short texts.
KWARGS = {
    "hidden_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "intermediate_size": 80,
    "vocab_size": 70,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "rotary_emb_base": 30.0,
    "lora_alpha": jina.ALPHA,
    "lora_rank": jina.RANK,
}
CONFIG = {"hf_model_config_kwargs": KWARGS, "hf_model_name_or_path": "jinaai/jina-embeddings-v3"}
SCALE = jina.ALPHA / jina.RANK


@pytest.fixture(scope="module")
def oracle():
    return jina.text(KWARGS, seed=1)


@pytest.fixture(scope="module")
def tower(oracle):
    return load(oracle.arrays())


def load(arrays, config=CONFIG, adapter=0, **options):
    merged = merge_lora(from_arrays(arrays), SCALE, adapter)
    return Tower(xlm_roberta_keys.load(merged, xlm_roberta_keys.parse_config(config), **options))


def ids():
    """Texts of 11, 4, 1 and 8 tokens, padded by 1."""
    rng = np.random.default_rng(2)
    drawn = rng.integers(2, 70, (4, 11)).astype(np.int32)
    return np.where(np.arange(11)[None] < np.array([11, 4, 1, 8])[:, None], drawn, 1)


def test_tower_agrees_stage_by_stage(oracle, tower):
    hidden, there = oracle.hidden(ids()), ids() != 1
    for stage, expected in ((before_blocks, 0), (after_one_block, 1), (all_tokens, -1)):
        found = tower.run(stage, ids())
        assert difference(found[there], hidden[expected][there]) < 1e-5, stage.__name__
    assert difference(tower.run(call, ids()), oracle.features(ids())) < 1e-5


def test_the_rotary_base_matters(oracle):
    other = CONFIG | {"hf_model_config_kwargs": KWARGS | {"rotary_emb_base": 33.0}}
    found = load(oracle.arrays(), other).run(call, ids())
    assert difference(found, oracle.features(ids())) > 1e-3


def test_padding_has_no_effect(tower):
    longer = np.pad(ids(), ((0, 0), (0, 5)), constant_values=1)
    assert difference(tower.run(call, longer), tower.run(call, ids())) < 1e-5


def test_any_of_several_adapters_can_be_merged(oracle):
    arrays = oracle.arrays(adapters=3)  # the last is the oracle's
    assert difference(load(arrays, adapter=2).run(call, ids()), oracle.features(ids())) < 1e-5
    assert difference(load(arrays, adapter=1).run(call, ids()), oracle.features(ids())) > 1e-3
    with pytest.raises(ValueError, match="must fit its change"):
        load(arrays, adapter=3)


def test_published_sizes_are_the_defaults():
    published = {
        "default_lora_task": "retrieval.query",
        "hf_model_config_kwargs": {"lora_rank": 4, "use_flash_attn": True},
        "hf_model_name_or_path": "jinaai/jina-embeddings-v3",
        "pooler_type": "mean_pooler",
    }
    config = xlm_roberta_keys.parse_config(published)
    assert (config.width, config.layers, config.heads, config.mlp_width) == (1024, 24, 16, 4096)
    assert (config.vocabulary, config.types, config.padding) == (250002, 1, 1)
    assert (config.rotary_base, config.epsilon) == (20000.0, 1e-5)


def test_other_variants_are_refused():
    with pytest.raises(ValueError, match="text_config must have pooler_type = 'mean_pooler'"):
        xlm_roberta_keys.parse_config(CONFIG | {"pooler_type": "cls_pooler"})
    absolute = KWARGS | {"position_embedding_type": "absolute"}
    with pytest.raises(ValueError, match="position_embedding_type = 'rotary'"):
        xlm_roberta_keys.parse_config(CONFIG | {"hf_model_config_kwargs": absolute})
    odd = KWARGS | {"num_attention_heads": 16}
    with pytest.raises(ValueError, match="multiple of 2"):
        xlm_roberta_keys.parse_config(CONFIG | {"hf_model_config_kwargs": odd})


def test_lora_is_merged_in_float32_from_half_precision():
    rng = np.random.default_rng(3)
    half = {
        "layer.parametrizations.weight.original": rng.normal(size=(5, 3)),
        "layer.parametrizations.weight.0.lora_A": rng.normal(size=(2, 4, 3)),
        "layer.parametrizations.weight.0.lora_B": rng.normal(size=(2, 5, 4)),
        "embeddings.word.parametrizations.weight.original": rng.normal(size=(5, 3)),
        "embeddings.word.parametrizations.weight.0.lora_A": rng.normal(size=(2, 5, 4)),
        "embeddings.word.parametrizations.weight.0.lora_B": rng.normal(size=(2, 4, 3)),
        "norm.weight": rng.normal(size=7),
    }
    half = {key: value.astype(np.float16) for key, value in half.items()}
    merged = merge_lora(from_arrays(half), 0.7, adapter=1)
    assert list(merged) == ["layer.weight", "embeddings.word.weight", "norm.weight"]
    w, a, b, table, rows, columns, norm = (x.astype(np.float64) for x in half.values())
    for key, expected in (
        ("layer.weight", w + 0.7 * b[1] @ a[1]),
        ("embeddings.word.weight", table + 0.7 * rows[1] @ columns[1]),
        ("norm.weight", norm),
    ):
        assert merged[key].shape == expected.shape
        np.testing.assert_allclose(merged[key].read(), expected, atol=1e-5)
    assert merged["layer.weight"].dtype == merged["layer.weight"].read().dtype == np.float32
    del half["layer.parametrizations.weight.0.lora_B"]
    with pytest.raises(ValueError, match="layer.*must come with"):
        merge_lora(from_arrays(half), 1.0)
    with pytest.raises(ValueError, match="no low-rank change"):
        merge_lora(from_arrays({"layer.parametrizations.weight.1.lora_A": w}), 1.0)


def test_missing_weights_are_named(oracle):
    arrays = oracle.arrays()
    del arrays["encoder.layers.2.mixer.Wqkv.bias"]
    with pytest.raises(ValueError, match="blocks/2/q/bias.*is not given"):
        load(arrays)


def test_half_precision_stays_close_and_keeps_small_parameters(oracle):
    tower = load(oracle.arrays(), dtype="bfloat16")
    assert_half_precision_is_close(tower, ids(), oracle.features(ids()))
