"""Token ids by transformers' CLIPTokenizer and by open_clip's SimpleTokenizer."""

import functools
import gzip
import importlib.util
import json
import pathlib
import sys

import numpy as np
from transformers import CLIPTokenizer

FOLDER = pathlib.Path(importlib.util.find_spec("open_clip").origin).parent
SPECIAL = ("<|startoftext|>", "<|endoftext|>")


@functools.cache
def simple_tokenizer():
    """open_clip's tokenizer, from its file alone: the package asks for torchvision."""
    spec = importlib.util.spec_from_file_location("open_clip_tokens", FOLDER / "tokenizer.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module.SimpleTokenizer()


def simple_ids(captions: list[str]) -> np.ndarray:
    """[B, 77] int64, zero after the end."""
    return simple_tokenizer()(captions).numpy()


@functools.cache
def vocabulary() -> tuple[dict[str, int], list[str]]:
    """OpenAI's tokens and merges, with the special tokens named as Hugging Face does."""
    with gzip.open(FOLDER / "bpe_simple_vocab_16e6.txt.gz") as file:
        lines = file.read().decode("utf-8").split("\n")
    ids = dict(simple_tokenizer().encoder)
    start, end = (ids.pop(name) for name in ("<start_of_text>", "<end_of_text>"))
    return ids | dict(zip(SPECIAL, (start, end), strict=True)), lines[1 : 49152 - 256 - 2 + 1]


@functools.cache
def hugging_face():
    """transformers' tokenizer of OpenAI's vocabulary."""
    ids, merges = vocabulary()
    return CLIPTokenizer(vocab=ids, merges=[tuple(line.split()) for line in merges])


def hugging_face_ids(captions: list[str]) -> list[list[int]]:
    """Ids of each caption, cut at 77, not padded."""
    return hugging_face()(captions, truncation=True, max_length=77)["input_ids"]


def write_tokenizer_json(folder: pathlib.Path) -> None:
    """Write what laion's repository holds: `tokenizer.json`."""
    hugging_face().backend_tokenizer.save(str(folder / "tokenizer.json"))


def write_vocabulary(folder: pathlib.Path) -> None:
    """Write what older repositories hold: `vocab.json` and `merges.txt`."""
    ids, merges = vocabulary()
    (folder / "vocab.json").write_text(json.dumps(ids), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", "utf-8")
