"""Rewards that score in a side process: `process:COMMAND` in place of a name.

The command is a program in any language and environment, such as a large model in PyTorch; see
`side_process` for what it reads and writes. Images reach it as PNG files of their own size.

Its short name is the program's: the first word that ends in `.py`, else the first word, without
folder and ending, in small letters. `process:/opt/torch/bin/python HPSv3.py --gpu=1` is `hpsv3`.
Its version ends in a digest of that file and of the words after it, files among them by content;
what stands before it, an interpreter or a launcher, does not count.

Letters: B images.
"""

import hashlib
import io
import json
import shlex
import shutil
import tempfile
import weakref
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from miro_jax.data.regular_file import digest_regular
from miro_jax.rewards import base
from miro_jax.rewards.names import PROCESS, program_of, short_name
from miro_jax.rewards.side_process import Hello, Scorer

_DIGITS = 8  # of the digest of the command, in the version
_PNG_LEVEL = 1  # the files live as long as a batch
# Running scorers by command; one ends when the last reward that uses it is gone.
_RUNNING: weakref.WeakValueDictionary[tuple[str, ...], Scorer] = weakref.WeakValueDictionary()
_HELLOS: dict[tuple[str, ...], Hello] = {}  # of commands, and digests of their files


def check_command(name: str) -> None:
    """Raise unless a name is that of a command that could be started; nothing is.

    Raises:
      ValueError: the command is empty, or its program or short name is no good.
      FileNotFoundError: its program or its `.py` file is missing.
    """
    words, program = _words(name), program_of(name)
    short = short_name(name)
    if not short[:1].isalpha() or not short.isascii():
        raise ValueError(
            f"{name}: the scorer's name is that of its program and must begin with a letter; got "
            f"{short!r}. Rename {program}."
        )
    if shutil.which(words[0]) is None:
        raise FileNotFoundError(f"{words[0]}, the program of {name}, is missing.")
    if program != words[0] and not Path(program).is_file():
        raise FileNotFoundError(f"{program}, the scorer of {name}, is missing.")


def digest(name: str) -> str:
    """Return the first digits of a digest of the program's file and of its arguments."""
    words = _words(name)
    at = words.index(program_of(name))
    file = shutil.which(words[0]) if at == 0 else words[at]
    parts = [digest_regular(file or words[at]), *map(_content, words[at + 1 :])]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:_DIGITS]


def hello_of(name: str, started: list[Scorer]) -> Hello:
    """Return what a scorer says about itself; it runs for that once for each content of its file.

    Args:
      name: `process:COMMAND`. started: gets the scorer where it had to run. Rewards that are loaded
        while somebody holds it use it, too, and what it has loaded since is not loaded twice.

    Raises:
      ScorerFailed: see `side_process.Scorer`.
      ValueError: it has another name than its program.
    """
    key = (name, digest(name))
    if key not in _HELLOS:
        started.append(_start(name))
        _HELLOS[key] = started[-1].hello
    return _HELLOS[key]


class ProcessReward(base.Reward):
    """Score with a program that runs beside this one.

    Args:
      name: `process:COMMAND`.

    Raises:
      ScorerFailed: the command cannot be started, or its first line is wrong.
      FileNotFoundError, ValueError: see `check_command`; or it has another name than its program.
    """

    preprocessing = "png"

    def __init__(self, name: str):
        check_command(name)
        self._scorer = _start(name)
        hello, words = self._scorer.hello, _words(name)
        self.name, self.version = short_name(name), f"{hello.version}-{digest(name)}"
        self.needs_caption, self.may_be_missing = hello.needs_caption, hello.may_be_missing
        self.synthetic_form = hello.synthetic_form
        command = shlex.join([Path(w).name for w in words[words.index(program_of(name)) :]])
        facts = json.dumps(vars(hello), sort_keys=True)
        self.tower = f"{PROCESS}{command} {digest(name)} {facts}"

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Return the PNG file of an image [H, W, 3] uint8, the bytes object of an array []."""
        base.check_image(image)
        file = io.BytesIO()
        Image.fromarray(image).save(file, "png", compress_level=_PNG_LEVEL)
        prepared = np.empty((), object)
        prepared[()] = file.getvalue()
        return prepared

    def encode(self, prepared: np.ndarray) -> np.ndarray:
        """Return the files [B] as they are."""
        return prepared

    def judge(self, features: np.ndarray, captions: Sequence[str]) -> np.ndarray:
        """Return the scores [B] float32, each distinct pair scored once; NaN where there is none.

        Raises:
          ScorerFailed: see `side_process.Scorer.score`.
        """
        base.check_captions(captions, len(features))
        texts = captions if self.needs_caption else [""] * len(features)
        pairs = list(zip(features.tolist(), texts, strict=True))
        todo = list(dict.fromkeys(pairs))
        size, known = self._scorer.hello.batch_size, {}
        for start in range(0, len(todo), size):
            some = todo[start : start + size]
            known.update(zip(some, self._score(some), strict=True))
        return np.array([known[pair] for pair in pairs], np.float32)

    def stored(self, score: np.ndarray) -> np.ndarray:
        """Return (score + offset) / divisor of the hello."""
        hello = self._scorer.hello
        return (score + np.float32(hello.stored_offset)) / np.float32(hello.stored_divisor)

    def close(self) -> None:
        """End the process now; it scores no more."""
        self._scorer.close()

    def _score(self, pairs: Sequence[tuple[bytes, str]]) -> list[float]:
        with tempfile.TemporaryDirectory(prefix="miro-jax-") as folder:
            paths = [Path(folder) / f"{number}.png" for number in range(len(pairs))]
            for path, (file, _) in zip(paths, pairs, strict=True):
                path.write_bytes(file)
            return self._scorer.score([str(path) for path in paths], [text for _, text in pairs])


def _start(name: str) -> Scorer:
    """Start the command, or return what was started before and still runs."""
    key = (name, digest(name))
    scorer = _RUNNING.get(key)
    if scorer is None or not scorer.close.alive:
        scorer = _RUNNING[key] = Scorer(_words(name), name)
    if scorer.hello.name != (short := short_name(name)):
        scorer.close()
        raise ValueError(
            f"The scorer {name} must have the name of its program, {short!r}; its hello says "
            f"{scorer.hello.name!r}. Rename one of them."
        )
    return scorer


def _words(name: str) -> list[str]:
    """Return the words of a command, as a shell splits them.

    Raises:
      ValueError: there is none, or a quote is left open.
    """
    text = name.removeprefix(PROCESS)
    try:
        words = shlex.split(text)
    except ValueError as error:
        raise ValueError(f"{name} must be process:COMMAND; its command has {error}.") from error
    if not words:
        raise ValueError(f"{name!r} must be process:COMMAND, such as process:python scorer.py.")
    return words


def _content(word: str) -> str:
    """Return the digest of the file that a word names, or else the word."""
    return digest_regular(word) if Path(word).is_file() else word
