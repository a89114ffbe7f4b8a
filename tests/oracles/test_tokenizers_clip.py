"""Our token ids against transformers' and open_clip's, on captions as crawls have them."""

import numpy as np
import pytest

from miro_jax.pretrained.weights import hub
from miro_jax.pretrained.weights.tokenizer import (
    hugging_face_tokenizer,
    openai_tokenizer,
    vocabulary,
)
from tests.oracles import clip_tokens as oracle

ODD = (
    "",
    " ",
    "\t\r\n \u00a0\u3000 ",
    "a photo of a cat",
    "Tom &amp; Jerry &lt;3 &amp;amp; &#39;friends&#39; &eacute;&nbsp;x",
    "The MÃ¼nchen cafÃ© â€” â€œquotedâ€\u009d text",
    "naïve façade, e\u0301 vs é, ﬁne ｆｕｌｌ",
    "😀 👩‍👩‍👧‍👦 🏳️‍🌈 ☃ ♥️ 🇫🇷",
    "ΟΔΥΣΣΕΥΣ ΣΑΣ İstanbul STRASSE straße",
    "it's they're I've we'll he'd I'm don't 'S 'LL",
    "1234567890 3.14 ½ ² Ⅷ ٣٤",
    "日本語のキャプション 中文说明 한국어 캡션 עברית العربية हिन्दी ไทย",
    "<start> <|endoftext|> <html><b>bold</b></html>",
    "a\u200bb\u200dc \ufeff \u00ad soft",
    "!!! ??? ... --- ''' \"\"\" $100 50% #tag @name http://x.org/a_b?c=d&e=f",
    "x" * 300,
    " ".join(f"word{n}" for n in range(500)),
    "\u0000 \u0007 \u001c\u001d tab\x0bfeed\x0c",
)
NOUNS = (
    "Dog",
    "café",
    "TREE",
    "sky-scraper",
    "O'Neil",
    "3rd",
    "#art",
    "&quot;moon&quot;",
    "🐈",
    "雨",
)


def captions(count=1000):
    """The odd ones, and mixtures of their words."""
    rng = np.random.default_rng(11)
    pool = [word for text in ODD[:-2] for word in text.split(" ")] + list(NOUNS)
    mixed = [" ".join(rng.choice(pool, rng.integers(1, 30))) for _ in range(count - len(ODD))]
    return [*ODD, *mixed]


@pytest.fixture(scope="module", params=["tokenizer.json", "vocab.json and merges.txt"])
def repository(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    if request.param == "tokenizer.json":
        oracle.write_tokenizer_json(folder)
    else:
        oracle.write_vocabulary(folder)
    return hub.open(folder)


def rows(ids, end=49407):
    """Cut padded rows after their last id: the first end that is not followed by other text."""
    return [row[: 1 + int(np.flatnonzero(row == end)[0])].tolist() for row in np.asarray(ids)]


@pytest.mark.over_a_second
def test_ids_equal_those_of_transformers(repository):
    tokenizer = hugging_face_tokenizer(repository)
    texts = captions()
    found = tokenizer(texts, 77)
    assert found.dtype == np.int32 and found.shape == (1000, 77)
    for text, ours, theirs in zip(texts, found, oracle.hugging_face_ids(texts), strict=True):
        padded = theirs + [49407] * (77 - len(theirs))
        assert ours.tolist() == padded, repr(text)


@pytest.mark.over_a_second
def test_ids_equal_those_of_open_clip(repository):
    tokenizer = openai_tokenizer(repository)
    texts = captions()
    found, expected = tokenizer(texts, 77), oracle.simple_ids(texts)
    for text, ours, theirs in zip(texts, found, expected, strict=True):
        assert ours.tolist() == theirs.tolist(), repr(text)


def test_the_two_ways_differ_for_entities_and_mojibake_only(repository):
    tokenizers = (
        hugging_face_tokenizer(repository),
        openai_tokenizer(repository),
    )
    for text, alike in ((ODD[3], True), (ODD[4], False), (ODD[5], False)):
        first, second = (rows(tokenizer([text], 77))[0] for tokenizer in tokenizers)
        assert (first == second) == alike, text


def test_batches_are_as_short_as_their_captions_allow(repository):
    tokenizer = hugging_face_tokenizer(repository)
    assert vocabulary(tokenizer.tokenizer) == 49408
    for words, length in ((1, 16), (14, 16), (15, 24), (30, 32), (33, 48), (300, 77)):
        ids = tokenizer(["cat " * words, "dog"], 77)
        assert ids.shape == (2, length)
        assert ids[0, 0] == 49406 and ids[0, -1] == 49407
    assert tokenizer([], 77).shape == (0, 16)


@pytest.mark.over_a_second
def test_halves_of_surrogate_pairs_do_not_break_a_batch(repository):
    for make in (hugging_face_tokenizer, openai_tokenizer):
        assert make(repository)(["half \ud83d a pair", "good"], 77).shape == (2, 16)
    with pytest.raises(TypeError, match="one str"):
        hugging_face_tokenizer(repository)("a caption", 77)


def test_missing_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="vocab.json"):
        hugging_face_tokenizer(hub.open(tmp_path))
