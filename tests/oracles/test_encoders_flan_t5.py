"""The caption encoder: ids and tokens equal transformers', whatever the batch and the padding."""

import json

import jax
import numpy as np
import pytest

from miro_jax.pretrained.encoders import build_caption_encoder, flan_t5
from miro_jax.pretrained.weights import hub
from miro_jax.pretrained.weights.tokenizer import (
    cut_ids,
    encode_texts,
    load_tokenizer,
    pad_rows,
    special_id,
)
from tests.networks import difference, small_mesh
from tests.oracles import t5 as oracles
from tests.oracles import t5_tokenizer

pytestmark = pytest.mark.slow

WORDS = (
    "a the two three red blue small old photo of painting oil cat dog house river in on under "
    "with Autumn Paris grass sunset portrait highly detailed cinematic light café naïve piñata, "
    "and. it's"
).split()
ODD = [
    "",
    " ",
    "\n",
    "two dogs\n\non the\tgrass  \r\n",
    "a cat 🐱🐶 and 👩‍👩‍👧 family",
    "tom &amp; jerry &lt;b&gt; &#39;quoted&#39; &nbsp;",
    "cafÃ© â€™quotesâ€œ",  # UTF-8 read as Latin-1
    "ﬁne ＦＵＬＬ １２３ ½ ™ …",
    "a\u00a0b\u200bc\u3000d\u0000e\u0007f",
    "日本語のキャプション и русский",
    "<PERSON> holds </s> a <pad> <extra_id_0> sign",
    "▁a ▁ b",
    "x" * 300,
    " ".join(["word"] * 500),
]
LONGEST = 20


def made_captions(count, seed=0):
    rng = np.random.default_rng(seed)
    return [" ".join(rng.choice(WORDS, rng.integers(1, 40))) for _ in range(count)]


@pytest.fixture(scope="module", autouse=True)
def compile_quickly():
    with jax.default_matmul_precision("highest"):
        yield


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """A small model in the published layout, its oracle, and SentencePiece's own tokenizer."""
    folder = tmp_path_factory.mktemp("flan")
    processor = t5_tokenizer.train(folder, made_captions(300, seed=1), pieces=110)
    size = processor.vocab_size() + 6
    oracle = oracles.Oracle(oracles.TINY | {"vocab_size": size + 7}, seed=3)
    (folder / "config.json").write_text(json.dumps(oracle.config()))
    oracles.write_weights(folder / "model.safetensors", oracle.tensors())
    return folder, oracle, processor


@pytest.fixture(scope="module")
def encoder(published):
    return build_caption_encoder("flan_t5", weights=str(published[0]), max_tokens=LONGEST)


def expected_tokens(published, captions, longest=LONGEST):
    """What transformers gives: ids, mask, encoder, cut to the mask."""
    folder, oracle, _ = published
    ids, mask = t5_tokenizer.published_batch(folder, captions, longest)
    end = oracle.encoder_stages(ids, mask)["end"]
    return [row[keep.astype(bool)] for row, keep in zip(end, mask, strict=True)]


def test_ids_equal_transformers_and_sentencepiece(published):
    folder, _, processor = published
    captions = made_captions(1000) + ODD
    tokenizer = load_tokenizer(hub.open(folder))
    ours = encode_texts(tokenizer, captions)
    assert ours == t5_tokenizer.published_ids(folder, captions, 10_000)
    assert max(map(len, ours)) > 500
    # Names of special tokens inside of a text are theirs alone to transformers.
    plain = [i for i, caption in enumerate(captions) if "</s>" not in caption]
    original = t5_tokenizer.original_ids(processor, [captions[i] for i in plain])
    assert [ours[i] for i in plain] == original


def test_cut_and_padded_ids_equal_transformers(published):
    folder, *_ = published
    captions = made_captions(200) + ODD
    tokenizer = load_tokenizer(hub.open(folder))
    rows = [cut_ids(ids, LONGEST) for ids in encode_texts(tokenizer, captions)]
    ids, mask = pad_rows(rows, LONGEST, padding=0)
    expected_ids, expected_mask = t5_tokenizer.published_batch(folder, captions, LONGEST)
    np.testing.assert_array_equal(ids, expected_ids)
    np.testing.assert_array_equal(mask, expected_mask.astype(bool))
    assert ids.dtype == np.int32 and (ids[mask.sum(axis=1) == LONGEST, -1] == 1).all()


def test_half_a_surrogate_pair_is_an_unknown_sign_and_no_error(published):
    tokenizer = load_tokenizer(hub.open(published[0]))
    broken, replaced = encode_texts(tokenizer, ["a \ud83d cat", "a \ufffd cat"])
    assert broken == replaced


@pytest.mark.parametrize("captions", ["a cat", [b"a cat"], [None]])
def test_captions_must_be_strings(encoder, captions):
    with pytest.raises(TypeError, match="must be a"):
        encoder.encode(captions)


def test_rows_that_are_too_long_are_refused():
    with pytest.raises(ValueError, match="at most 2 tokens; got 3"):
        pad_rows([[5, 6, 1]], 2, padding=0)


def test_special_tokens_must_exist(published):
    tokenizer = load_tokenizer(hub.open(published[0]))
    assert special_id(tokenizer, "</s>") == 1
    with pytest.raises(ValueError, match="must have '<mask>'"):
        special_id(tokenizer, "<mask>")


def test_a_damaged_tokenizer_is_named(tmp_path):
    (tmp_path / "tokenizer.json").write_text('{"model": 3}')
    with pytest.raises(ValueError, match="tokenizer.json is no tokenizer"):
        load_tokenizer(hub.open(tmp_path))


def test_tokens_equal_transformers(published, encoder):
    captions = made_captions(12, seed=4) + ODD
    ours = encoder.encode(captions, np.float32)
    for tokens, expected in zip(ours, expected_tokens(published, captions), strict=True):
        assert difference(tokens, expected) <= 1e-5


def test_long_captions_equal_transformers(published):
    folder, *_ = published
    encoder = flan_t5.FlanT5Encoder(str(folder), max_tokens=300)
    captions = [" ".join(made_captions(20, seed=5)), "a cat"]
    ours = encoder.encode(captions, np.float32)
    assert [len(tokens) for tokens in ours][0] == 300
    for tokens, expected in zip(ours, expected_tokens(published, captions, 300), strict=True):
        assert difference(tokens, expected) <= 1e-5


def test_tokens_are_float16_and_end_with_the_end_token(encoder):
    captions = ["a red cat", "", "cat " * 100]
    counts = encoder.count_tokens(captions)
    tokens = encoder.encode(captions)
    assert counts[1] == 1 and counts[2] > LONGEST
    assert [t.shape for t in tokens] == [(min(n, LONGEST), encoder.width) for n in counts]
    exact = encoder.encode(captions, np.float32)
    for half, single in zip(tokens, exact, strict=True):
        assert half.dtype == np.float16 and single.dtype == np.float32
        np.testing.assert_allclose(half, single, rtol=1e-3, atol=1e-4)


def test_tokens_do_not_depend_on_padding_or_company(published, encoder, monkeypatch):
    caption = ["a red cat"]
    alone = encoder.encode(caption, np.float32)[0]
    beside = encoder.encode([*made_captions(9, seed=6), *caption], np.float32)[-1]
    assert difference(beside, alone) <= 1e-5
    for length in (8, 16, 20):
        monkeypatch.setattr(flan_t5, "padded_length", lambda *_, length=length: length)
        assert difference(encoder.encode(caption, np.float32)[0], alone) <= 1e-5


def test_lengths_are_few_and_fit():
    lengths = {flan_t5.padded_length(n, 77) for n in range(1, 78)}
    assert lengths == {16, 32, 64, 77}
    assert all(flan_t5.padded_length(n, 77) >= n for n in range(1, 78))
    assert {flan_t5.padded_length(n, 5) for n in range(1, 6)} == {5}


def test_equal_captions_are_encoded_once_and_large_batches_in_parts(encoder, monkeypatch):
    captions = [*made_captions(7, seed=7), "a cat"] * 3
    whole = encoder.encode(captions)
    rows = []
    run = encoder.tower.run

    def counted(function, ids, mask):
        rows.append(len(ids))
        return run(function, ids, mask)

    monkeypatch.setattr(encoder.tower, "run", counted)
    monkeypatch.setattr(flan_t5, "ROWS", 3)
    parts = encoder.encode(captions)
    assert sum(rows) == len(set(captions)) and max(rows) <= 3
    for one, other in zip(parts, whole, strict=True):
        assert difference(one, other) <= 1e-3  # float16


def test_padded_tokens_are_zero_outside_of_the_mask(encoder):
    captions = ["a red cat", "", "cat " * 100]
    tokens, mask = encoder.encode_padded(captions)
    assert tokens.shape == (3, LONGEST, encoder.width) and tokens.dtype == np.float16
    assert mask.dtype == bool and (tokens[~mask] == 0).all()
    for row, code in enumerate(encoder.encode(captions)):
        np.testing.assert_array_equal(tokens[row][mask[row]], code)
    nothing, none = encoder.encode_padded([])
    assert nothing.shape == (0, LONGEST, encoder.width) and none.shape == (0, LONGEST)


def test_parameters_split_over_a_mesh_give_the_same_tokens(published, encoder):
    split = flan_t5.FlanT5Encoder(str(published[0]), max_tokens=LONGEST, mesh=small_mesh(4, 2))
    kernel = split.tower.state["encoder"]["blocks"][0]["mlp"]["gate"]["kernel"][...]
    assert kernel.sharding.shard_shape(kernel.shape) == (6, 20)
    captions = made_captions(5, seed=8)
    for one, other in zip(
        split.encode(captions, np.float32), encoder.encode(captions, np.float32), strict=True
    ):
        assert difference(one, other) <= 1e-5


def test_identity_names_whatever_changes_the_tokens(published, tmp_path):
    folder, oracle, _ = published
    texts = {flan_t5.FlanT5Encoder(str(folder), max_tokens=n).identity for n in (5, 6)}
    texts.add(flan_t5.FlanT5Encoder(str(folder), dtype="bfloat16", max_tokens=5).identity)
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    tensors = oracle.tensors() | {"encoder.final_layer_norm.weight": np.ones(24, np.float32)}
    oracles.write_weights(tmp_path / "model.safetensors", tensors)
    texts.add(flan_t5.FlanT5Encoder(str(tmp_path), max_tokens=5).identity)
    assert len(texts) == 4 and all(text.startswith("flan_t5@1-") for text in texts)


def test_max_tokens_must_be_positive(published):
    with pytest.raises(ValueError, match="max_tokens must be at least 1; got 0"):
        flan_t5.FlanT5Encoder(str(published[0]), max_tokens=0)


def test_weights_in_several_files_are_read(published, tmp_path):
    folder, oracle, _ = published
    for name in ("config.json", "tokenizer.json"):
        (tmp_path / name).write_bytes((folder / name).read_bytes())
    tensors = list(oracle.tensors().items())
    names = {}
    for number, part in enumerate((dict(tensors[::2]), dict(tensors[1::2])), 1):
        name = f"model-{number:05}-of-00002.safetensors"
        oracles.write_weights(tmp_path / name, part)
        names |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": names}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    ours, other = (flan_t5.FlanT5Encoder(str(path), max_tokens=9) for path in (tmp_path, folder))
    np.testing.assert_array_equal(ours.encode(["a cat"])[0], other.encode(["a cat"])[0])
    assert ours.identity != other.identity
