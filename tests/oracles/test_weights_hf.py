"""What is read by transformers: configs and slow tokenizers, without PyTorch and without code."""

import copy
import json
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from miro_jax.pretrained.encoders.flan_t5 import FlanT5Encoder
from miro_jax.pretrained.networks import clip_keys, t5_keys
from miro_jax.pretrained.weights import hf, hub
from miro_jax.pretrained.weights.tokenizer import encode_texts, load_tokenizer
from tests.networks import difference
from tests.oracles import clip_tokens, t5_tokenizer
from tests.oracles import t5 as t5_oracle

TEXTS = ["a red fox in snow", "two blue cats on a mat", "", "ﬁne café</s> x", "日本語 🐱"]
SIZES = {
    "hidden_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 1,
    "intermediate_size": 48,
}
VISION = SIZES | {"image_size": 28, "patch_size": 7}


def clip_config(**changes):
    text, vision = SIZES | {"hidden_act": "quick_gelu"}, VISION | {"hidden_act": "quick_gelu"}
    published = {"architectures": ["CLIPModel"], "model_type": "clip", "torch_dtype": "float32"}
    sizes = {"projection_dim": 16, "text_config": text, "vision_config": vision}
    return published | sizes | changes


def test_the_older_sections_of_a_clip_config_count_where_both_are_there():
    config = clip_config(
        text_config_dict=SIZES | {"hidden_act": "gelu"},
        vision_config_dict=VISION | {"hidden_act": "gelu"},
    )
    before = copy.deepcopy(config)
    assert clip_keys.text_config(config).activation == "gelu"
    assert clip_keys.vision_config(config).activation == "gelu"
    assert config == before
    assert clip_keys.text_config(clip_config()).activation == "quick_gelu"


def test_a_config_as_transformers_4_wrote_it_is_read():
    """With keys of generation and of labels in each section, which later versions dropped."""
    old = {
        "attention_dropout": 0.0,
        "bad_words_ids": None,
        "bos_token_id": 0,
        "early_stopping": False,
        "eos_token_id": 2,
        "id2label": {"0": "LABEL_0", "1": "LABEL_1"},
        "max_length": 20,
        "num_beams": 1,
        "pruned_heads": {},
        "tie_encoder_decoder": False,
        "top_k": 50,
        "torch_dtype": None,
        "transformers_version": "4.24.0",
        "use_bfloat16": False,
    }
    text = SIZES | old | {"hidden_act": "gelu", "model_type": "clip_text_model"}
    vision = VISION | old | {"hidden_act": "gelu", "model_type": "clip_vision_model"}
    config = clip_config(_commit_hash=None, text_config=text, vision_config=vision)
    found = clip_keys.text_config(config)
    assert (found.width, found.activation, found.end_token) == (64, "gelu", None)
    assert clip_keys.vision_config(config).image_size == 28
    alone = clip_keys.vision_config(vision, projection=False)
    assert (alone.patch_size, alone.projection) == (7, None)


def test_a_config_of_other_types_is_refused():
    with pytest.raises(ValueError, match="must be a CLIPConfig.*hidden_size"):
        clip_keys.text_config(clip_config(text_config=SIZES | {"hidden_size": "wide"}))


@pytest.fixture(scope="module")
def t5_folder(tmp_path_factory):
    """A FLAN-T5 that transformers 5 loaded and saved, and what it computes of TEXTS."""
    folder = tmp_path_factory.mktemp("t5")
    t5_tokenizer.train(folder, TEXTS * 20, 60)
    tokens = t5_oracle.save_by_transformers(folder, TEXTS)
    return folder, tokens


def test_a_t5_saved_by_transformers_5_gives_the_same_tokens(t5_folder):
    folder, expected = t5_folder
    config = json.loads((folder / "config.json").read_text())
    assert config["tie_word_embeddings"] is True and config["scale_decoder_outputs"] is False
    found = FlanT5Encoder(str(folder)).encode(TEXTS, np.float32)
    for ours, theirs in zip(found, expected, strict=True):
        assert difference(ours, theirs) < 1e-5


def test_a_t5_whose_outputs_are_scaled_is_refused(t5_folder):
    config = json.loads((t5_folder[0] / "config.json").read_text())
    assert t5_keys.parse_config(config).width == 32
    with pytest.raises(ValueError, match="scale_decoder_outputs = False"):
        t5_keys.parse_config(config | {"scale_decoder_outputs": True})


def test_t5_ids_of_a_sentencepiece_model_equal_those_of_sentencepiece(tmp_path):
    fast, slow = tmp_path / "fast", tmp_path / "slow"
    slow.mkdir()
    processor = t5_tokenizer.train(fast, TEXTS * 20, 60, extra_ids=100)
    (slow / "spiece.model").write_bytes(processor.serialized_model_proto())
    tokenizer = load_tokenizer(hub.open(slow), "t5")
    found = encode_texts(tokenizer, TEXTS)
    assert found == encode_texts(load_tokenizer(hub.open(fast), "t5"), TEXTS)
    plain = [i for i, text in enumerate(TEXTS) if "</s>" not in text]
    original = t5_tokenizer.original_ids(processor, [TEXTS[i] for i in plain])
    assert [found[i] for i in plain] == original
    assert tokenizer.get_vocab_size() == processor.vocab_size() + 100


def test_an_encoder_without_tokenizer_json_depends_on_its_vocabulary(t5_folder, tmp_path):
    folder, _ = t5_folder
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    identities = set()
    for corpus in (TEXTS, TEXTS[:2]):
        processor = t5_tokenizer.train(tmp_path / str(len(corpus)), corpus * 20, 60)
        (tmp_path / "spiece.model").write_bytes(processor.serialized_model_proto())
        identities.add(FlanT5Encoder(str(tmp_path), width=32).identity)
    assert len(identities) == 2


def test_damaged_vocabularies_are_named(tmp_path):
    (tmp_path / "spiece.model").write_bytes(b"no proto")
    with pytest.raises(ValueError, match=str(tmp_path)):
        load_tokenizer(hub.open(tmp_path), "t5")


OPEN = """
import json, pathlib, sys
import numpy as np
from miro_jax.pretrained.encoders.flan_t5 import FlanT5Encoder
from miro_jax.pretrained.networks import clip_keys
from miro_jax.pretrained.weights import hub, tokenizer

assert "transformers" not in sys.modules
t5, slow_t5, clip = map(pathlib.Path, sys.argv[1:])
assert clip_keys.text_config(json.loads((clip / "config.json").read_text())).width == 64
assert tokenizer.hugging_face_tokenizer(hub.open(clip))(["a fox"], 77).shape == (1, 16)
assert FlanT5Encoder(str(t5)).encode(["a fox"], np.float32)[0].shape[1] == 32
assert len(tokenizer.load_tokenizer(hub.open(slow_t5), "t5").encode("a fox").ids) > 1
assert "transformers" in sys.modules
print("torch" in sys.modules)
import torch
print(torch.ones(1).item())
"""


@pytest.mark.slow
def test_a_clip_and_a_t5_are_opened_without_pytorch_where_it_is_installed(t5_folder, tmp_path):
    """In a fresh interpreter; PyTorch can still be imported afterwards."""
    clip, slow = tmp_path / "clip", tmp_path / "slow"
    clip.mkdir()
    clip_tokens.write_vocabulary(clip)
    (clip / "config.json").write_text(json.dumps(clip_config()))
    processor = t5_tokenizer.train(tmp_path / "fast", TEXTS * 20, 60)
    slow.mkdir()
    (slow / "spiece.model").write_bytes(processor.serialized_model_proto())
    done = subprocess.run(
        [sys.executable, "-c", OPEN, str(t5_folder[0]), str(slow), str(clip)],
        cwd=pathlib.Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["False", "1.0"]
    assert "PyTorch was not found" not in done.stderr


def test_nothing_is_hidden_where_pytorch_is_imported_already(monkeypatch):
    module = sys.modules.setdefault("torch", pathlib)
    with hf.without("torch"):
        assert sys.modules["torch"] is module


def test_a_tokenizer_of_another_model_is_refused(t5_folder, tmp_path):
    """Ids beyond the embedding would be taken for its last row without a word."""
    for path in t5_folder[0].iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    path = tmp_path / "tokenizer.json"
    values = json.loads(path.read_text())
    values["model"]["vocab"] += [[f"piece{i}", -20.0] for i in range(100)]
    path.write_text(json.dumps(values))
    with pytest.raises(ValueError, match="must have at most the .* tokens of the weights; got"):
        FlanT5Encoder(str(tmp_path))


@pytest.mark.parametrize("activation", ["gated-gelu_new", "gated-gelu_pytorch_tanh"])
def test_other_names_of_its_activation_mean_the_same_t5(t5_folder, activation):
    config = json.loads((t5_folder[0] / "config.json").read_text())
    renamed = config | {"feed_forward_proj": activation}
    assert t5_keys.parse_config(renamed) == t5_keys.parse_config(config)
    with pytest.raises(ValueError, match="got 'gated-silu'"):
        t5_keys.parse_config(config | {"feed_forward_proj": "gated-silu"})
