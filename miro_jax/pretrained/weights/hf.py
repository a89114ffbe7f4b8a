"""Configs and slow tokenizers of published models, as the library `transformers` reads them.

transformers knows how its formats changed over the years: which of two sections of a CLIP's
`config.json` counts, what a T5 saved by its version 5 means, how `vocab.json` or `spiece.model`
become a tokenizer. No code of a repository is ever run, and transformers opens no file but those
that `weights.hub` found or fetched: it never asks the hub itself.

It is imported when a published model is opened, not before: 1.2 s of a processor and 17 MB. Since
version 5 it also imports PyTorch where that is installed, with no switch against it: 3.4 s and 203
MB. PyTorch is therefore hidden from it during the import, and transformers then has no PyTorch for
the rest of the process. A program that needs both imports torch or transformers itself before it
opens a model here; nothing is hidden then.
"""

import contextlib
import copy
import functools
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import tokenizers

from miro_jax.data.json_file import check_fields


def read_config(kind: str, values: Mapping[str, Any]) -> Any:
    """Return the `transformers` config of a `config.json`.

    Args:
      kind: name of its class, such as "CLIPConfig".
      values: content of the file.
    """
    try:
        return getattr(_transformers(), kind)(**copy.deepcopy(dict(values)))
    except Exception as error:  # its validation raises kinds of its own
        raise ValueError(f"config.json must be a {kind} of transformers: {error}") from error


def require_options(
    config: Mapping[str, Any], wanted: Mapping[str, Any], of: str, remedy: str = ""
) -> None:
    """Raise ValueError if an option of a published model has another value than the one offered.

    Args:
      config: of the model. wanted: the offered values, which a key that is missing has, too.
      of: names the config. remedy: what to do.
    """
    if wrong := [
        f"{key} = {value!r}; got {config[key]!r}"
        for key, value in wanted.items()
        if config.get(key, value) != value
    ]:
        raise ValueError(f"{of} must have {', and '.join(wrong)}. {remedy}".strip())


def with_defaults(
    config: Mapping[str, Any], defaults: Mapping[str, Any], of: str
) -> dict[str, Any]:
    """Return the values of the keys of `defaults`, those of a config first."""
    own = {key: config.get(key, value) for key, value in defaults.items()}
    check_fields(own, {key: type(value) for key, value in defaults.items()}, of)
    return own


def read_tokenizer(kind: str, folder: Path) -> tokenizers.Tokenizer:
    """Convert the vocabulary files of a folder to a tokenizer of the library `tokenizers`.

    Args:
      kind: name of the class in `transformers`, such as "CLIPTokenizer".
      folder: holds the files that this class names.
    """
    with naming(f"{folder} holds no {kind}"):
        slow = getattr(_transformers(), kind).from_pretrained(
            str(folder), local_files_only=True, trust_remote_code=False
        )
        return tokenizers.Tokenizer.from_str(slow.backend_tokenizer.to_str())


@contextlib.contextmanager
def naming(what: str) -> Iterator[None]:
    """Turn whatever a library raises on damaged files, a panic of Rust too, into a ValueError."""
    try:
        yield
    except BaseException as error:
        # A PanicException is no Exception; the library exports no name for it.
        if not isinstance(error, Exception) and type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"{what}: {error}. Fetch it again.") from error


@functools.cache
def _transformers() -> ModuleType:
    with contextlib.ExitStack() as stack:
        if {"torch", "transformers"}.isdisjoint(sys.modules):
            stack.enter_context(without("torch"))
            advice = "TRANSFORMERS_NO_ADVISORY_WARNINGS"  # it advises to install PyTorch
            if advice not in os.environ:
                os.environ[advice] = "1"
                stack.callback(os.environ.pop, advice)
        import transformers
    return transformers


@contextlib.contextmanager
def without(*names: str) -> Iterator[None]:
    """Hide packages from what is imported inside, unless they are here already."""
    hidden = [name for name in names if name not in sys.modules]
    sys.modules.update(dict.fromkeys(hidden))  # type: ignore[arg-type]  # None: it is not there
    try:
        yield
    finally:
        for name in hidden:
            del sys.modules[name]
