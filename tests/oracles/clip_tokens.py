"""Token ids by transformers' CLIPTokenizer and by open_clip's SimpleTokenizer."""

import functools
import gzip
import importlib.util
import json
import pathlib
import sys
import tempfile

import numpy as np
from transformers import CLIPTokenizer

FOLDER = pathlib.Path(importlib.util.find_spec("open_clip").origin).parent
VOCABULARY = FOLDER / "bpe_simple_vocab_16e6.txt.gz"
NUM_MERGES = 49152 - 256 - 2
SPECIAL = ("<|startoftext|>", "<|endoftext|>")


@functools.cache
def _module():
    """open_clip's tokenizer, from its file alone: the package asks for torchvision."""
    spec = importlib.util.spec_from_file_location("open_clip_tokens", FOLDER / "tokenizer.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@functools.cache
def simple_tokenizer(num_merges: int = NUM_MERGES):
    """open_clip's tokenizer with the first merges of its vocabulary."""
    with gzip.open(VOCABULARY) as file:
        lines = file.read().decode("utf-8").split("\n")[: 1 + num_merges]
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "merges.txt.gz")
        path.write_bytes(gzip.compress("\n".join(lines).encode()))
        return _module().SimpleTokenizer(str(path))


def simple_ids(captions: list[str], num_merges: int = NUM_MERGES) -> np.ndarray:
    """[B, 77] int64, zero after the end."""
    return simple_tokenizer(num_merges)(captions).numpy()


@functools.cache
def vocabulary(num_merges: int = NUM_MERGES) -> tuple[dict[str, int], list[str]]:
    """OpenAI's tokens and merges, with the special tokens named as Hugging Face does."""
    with gzip.open(VOCABULARY) as file:
        lines = file.read().decode("utf-8").split("\n")
    ids = dict(simple_tokenizer(num_merges).encoder)
    start, end = (ids.pop(name) for name in ("<start_of_text>", "<end_of_text>"))
    return ids | dict(zip(SPECIAL, (start, end), strict=True)), lines[1 : 1 + num_merges]


@functools.cache
def hugging_face(num_merges: int = NUM_MERGES):
    """transformers' tokenizer of OpenAI's vocabulary."""
    ids, merges = vocabulary(num_merges)
    return CLIPTokenizer(vocab=ids, merges=[tuple(line.split()) for line in merges])


def hugging_face_ids(captions: list[str]) -> list[list[int]]:
    """Ids of each caption, cut at 77, not padded."""
    return hugging_face()(captions, truncation=True, max_length=77)["input_ids"]


def write_tokenizer_json(folder: pathlib.Path, num_merges: int = NUM_MERGES) -> None:
    """Write what laion's repository holds: `tokenizer.json`."""
    hugging_face(num_merges).backend_tokenizer.save(str(folder / "tokenizer.json"))


def write_vocabulary(folder: pathlib.Path) -> None:
    """Write what older repositories hold: `vocab.json` and `merges.txt`."""
    ids, merges = vocabulary()
    (folder / "vocab.json").write_text(json.dumps(ids), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", "utf-8")
