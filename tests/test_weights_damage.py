"""Damaged configs and tokenizers of published models: a ValueError that names the file, at once."""

import json

import pytest
import tokenizers
from tokenizers import models, normalizers, pre_tokenizers, processors

from miro_jax.pretrained.networks import (
    blip_keys,
    clip_keys,
    eva02_keys,
    t5_keys,
    vae_keys,
    xlm_roberta_keys,
)
from miro_jax.pretrained.weights import hub, official
from miro_jax.pretrained.weights.tokenizer import encode_texts, load_tokenizer

STACK = {
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 48,
    "layer_norm_eps": 1e-5,
}
CLIP = {
    "projection_dim": 16,
    "text_config": STACK | {"vocab_size": 50, "max_position_embeddings": 11},
    "vision_config": STACK | {"image_size": 28, "patch_size": 7},
}
T5 = {
    "d_model": 32,
    "num_heads": 4,
    "d_kv": 8,
    "d_ff": 48,
    "num_layers": 2,
    "vocab_size": 60,
    "relative_attention_num_buckets": 32,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "gated-gelu",
    "tie_word_embeddings": False,
}
VAE = {
    "in_channels": 3,
    "out_channels": 3,
    "latent_channels": 4,
    "block_out_channels": [32, 64],
    "layers_per_block": 1,
    "norm_num_groups": 32,
}
EVA = {"width": 48, "layers": 3, "head_width": 16, "image_size": 80, "patch_size": 14}
XLM = {"hf_model_config_kwargs": {"hidden_size": 48, "num_attention_heads": 6, "vocab_size": 70}}
RELEASE = {
    "network": {
        "data_size": 8,
        "num_input_channels": 4,
        "label_dim": 12,
        "patch_size": 2,
        "data_dim": 16,
        "latents_dim": 32,
        "num_latents": 6,
        "num_blocks": 1,
        "num_processing_layers": 1,
        "use_cond_rin_block": True,
        "concat_cond_token_to_latents": False,
        "use_self_conditioning": True,
    },
    "preconditioning": {"sigma_data": 0.5, "logvar_channels": 8},
}
PARSERS = {
    "clip": (CLIP, clip_keys.configs),
    "t5": (T5, t5_keys.parse_config),
    "vae": (VAE, vae_keys.parse_config),
    "eva02": (EVA, eva02_keys.parse_config),
    "xlm_roberta": (XLM, xlm_roberta_keys.parse_config),
    "blip": (STACK, lambda config: blip_keys.text_config(config, 64)),
    "release": (RELEASE, official.rin_config),
}
WRONG = (-1, 0, 10**9, 10**400, 1.5, float("1e300"), "8", True, None, [], {}, [[1]], {"a": 1})


def numbers(config, path=()):
    """The paths of all numbers and lists of a config."""
    for key, value in config.items():
        if isinstance(value, dict):
            yield from numbers(value, (*path, key))
        elif not isinstance(value, str | bool):
            yield (*path, key)


def replaced(config, path, value):
    key, *rest = path
    return config | {key: replaced(config[key], rest, value) if rest else value}


@pytest.mark.parametrize("name", PARSERS)
def test_sizes_that_cannot_be_are_refused_before_anything_is_made(tmp_path, name):
    config, parse = PARSERS[name]
    path = tmp_path / "config.json"
    path.write_text(json.dumps(config))
    assert hub.open(tmp_path).parsed("config.json", parse)
    for place in numbers(config):
        for value in WRONG:
            path.write_text(json.dumps(replaced(config, place, value)))
            refused = _refuses(tmp_path, parse)
            if value in (-1, 0, 10**9, 10**400, "8"):
                assert refused, (place, value)


def _refuses(folder, parse):
    try:
        hub.open(folder).parsed("config.json", parse)
    except ValueError as error:
        assert "config.json" in str(error)
        return True
    return False


def test_the_sections_of_a_config_must_be_objects(tmp_path):
    for name, config in (("clip", {"vision_config": 3}), ("release", {"network": []})):
        (tmp_path / "config.json").write_text(json.dumps(config))
        assert _refuses(tmp_path, PARSERS[name][1])


def test_spellings_of_one_config_give_the_same_sizes():
    common = {"hidden_size": "d_model", "num_attention_heads": "num_heads", "head_dim": "d_kv"}
    aliases = {key: T5[own] for key, own in common.items()}
    renamed = {k: v for k, v in T5.items() if k not in common.values()} | aliases
    assert t5_keys.parse_config(renamed) == t5_keys.parse_config(T5)
    pairs = replaced(CLIP, ("vision_config", "image_size"), [28, 28])
    assert clip_keys.configs(pairs) == clip_keys.configs(CLIP)
    older = {f"{k}_dict" if "_config" in k else k: v for k, v in CLIP.items()}
    assert clip_keys.configs(older | {"dtype": "float16"}) == clip_keys.configs(CLIP)
    for spelling in ("gelu_new", "gelu_pytorch_tanh", "gelu_python"):
        config = replaced(CLIP, ("text_config", "hidden_act"), spelling)
        assert clip_keys.text_config(config).activation == spelling
    with pytest.raises(ValueError, match="activation must be one of gelu, .*; got 'relu'"):
        clip_keys.text_config(replaced(CLIP, ("text_config", "hidden_act"), "relu"))


def test_the_scale_of_a_decoder_does_not_matter_to_an_encoder_alone():
    untold = {k: v for k, v in T5.items() if k != "tie_word_embeddings"}
    for config in (untold, T5 | {"tie_word_embeddings": True, "is_encoder_decoder": False}):
        with pytest.raises(ValueError, match="scale_decoder_outputs = False; got True"):
            t5_keys.parse_config(config)
        assert t5_keys.parse_config(config, encoder_only=True) == t5_keys.parse_config(T5)
    with pytest.raises(ValueError, match="feed_forward_proj = 'gated-gelu'; got 'relu'"):
        t5_keys.parse_config(untold | {"feed_forward_proj": "relu"}, encoder_only=True)


def test_the_activation_of_a_t5_is_the_one_that_transformers_computes():
    old = {k: v for k, v in T5.items() if k != "feed_forward_proj"}
    acts = {"dense_act_fn": "gelu_new", "is_gated_act": True}
    assert t5_keys.parse_config(old | acts) == t5_keys.parse_config(T5)
    others = (({"dense_act_fn": "silu"}, "gated-silu"), ({"is_gated_act": False}, "gelu_new"))
    for change, got in others:
        with pytest.raises(ValueError, match=f"'gated-gelu'; got '{got}'"):
            t5_keys.parse_config(T5 | acts | change)


@pytest.mark.parametrize(
    "change", [{"resize_mode": "squash"}, {"interpolation": "bilinear"}, {"mean": [0.5, 0.5, 0.5]}]
)
def test_preprocessing_of_open_clip_that_is_not_done_here_is_refused(change):
    usual = dict(clip_keys.PREPROCESSING)
    config = {"model_cfg": {"vision_cfg": {}, "text_cfg": {}}, "preprocess_cfg": usual | change}
    with pytest.raises(ValueError, match=f"preprocess_cfg must have {next(iter(change))} = "):
        clip_keys.configs_of_open_clip(config, {})
    config["preprocess_cfg"] = usual
    with pytest.raises(ValueError, match="The weights must hold visual.conv1.weight"):
        clip_keys.configs_of_open_clip(config, {})


def test_the_config_of_a_text_tower_alone_counts():
    own = CLIP["text_config"] | {"projection_dim": CLIP["projection_dim"]}
    own |= {"model_type": "clip_text_model", "hidden_act": "gelu"}
    found = clip_keys.text_config(own)
    want = clip_keys.text_config(replaced(CLIP, ("text_config", "hidden_act"), "gelu"))
    assert found == want and found.activation == "gelu"


# Tokenizers.


def make(special="</s>", content="b", prefix=None, single="$A </s>", normalizer=None):
    model = models.BPE({"a": 0, "b": 1, "ab": 2, "</s>": 3}, [("a", "b")])
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.normalizer = normalizer or normalizers.Replace("x", content)
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single.strip(), None, [("</s>", 3)])
    values = json.loads(tokenizer.to_str())
    values["post_processor"]["single"][-1]["SpecialToken"]["id"] = special
    values["model"]["continuing_subword_prefix"] = prefix
    return values


def load(folder, values):
    text = values if isinstance(values, str) else json.dumps(values)
    (folder / "tokenizer.json").write_text(text)
    return load_tokenizer(hub.open(folder))


def test_a_sound_tokenizer_is_read(tmp_path):
    values = make()
    values["padding"] = {
        "strategy": {"Fixed": 10**9},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "a",
    }
    assert encode_texts(load(tmp_path, values), ["ab", ""]) == [[2, 3], [3]]


CHAIN = normalizers.Sequence([normalizers.Replace("a", "a" * 50) for _ in range(9)])


@pytest.mark.parametrize(
    "values",
    [
        make(prefix="long"),  # Rust panics while it is read
        make(special="gone"),  # and here when a text is read
        make(normalizer=CHAIN),  # one letter becomes 50^9
        make(single="$A " + "</s> " * 5000),
        "{",
        "[" * 100_000,
        "{}",
        "null",
        '{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}',
    ],
    ids=["prefix", "special", "growth", "template", "cut", "deep", "empty", "null", "negative"],
)
def test_a_damaged_tokenizer_is_a_valueerror_that_names_the_file(tmp_path, values, capfd):
    with pytest.raises(ValueError, match="tokenizer.json") as caught:
        load(tmp_path, values)
    assert "\n" not in str(caught.value)


def test_files_of_tokenizers_are_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr("miro_jax.pretrained.weights.tokenizer.MOST_BYTES", 100)
    with pytest.raises(ValueError, match="tokenizer.json must hold at most 100 bytes"):
        load(tmp_path, make())


def test_damaged_options_beside_a_vocabulary_are_named(tmp_path):
    (tmp_path / "vocab.json").write_text('{"a": 0}')
    (tmp_path / "merges.txt").write_text("#version: 0.2\n")
    (tmp_path / "tokenizer_config.json").write_text("[1]")
    with pytest.raises(ValueError, match="tokenizer_config.json: it must be an object"):
        load_tokenizer(hub.open(tmp_path), "clip")
