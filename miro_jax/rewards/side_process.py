r"""A program that scores images in a process of its own: how it is started, asked and ended.

The two talk in lines of JSON, UTF-8. The program first writes who it is; then each line that it
reads is a batch, and it answers each with one line. At the end of its input it ends.

    <- {"miro_scorer": 1, "name": "hpsv3", "version": "1", "needs_caption": true}
    -> {"batch": 0, "images": ["/tmp/x/0.png", "/tmp/x/1.png"], "captions": ["a fox", "a hen"]}
    <- {"batch": 0, "scores": [7.25, 3.5]}

null in place of a score says that there is none; {"batch": 0, "error": "text"} gives up. Whatever
else happens is raised as `ScorerFailed`, one line that names the scorer, what it did and the end of
its stderr. The program runs in a session of its own: Ctrl-C stops this process, which then ends it.
"""

import collections
import contextlib
import dataclasses
import io
import json
import math
import os
import queue
import signal
import subprocess
import sys
import threading
import weakref
from collections.abc import Sequence
from typing import Any

from miro_jax.data.json_file import check_fields, parse_json
from miro_jax.data.printable import printable
from miro_jax.rewards.base import SYNTHETIC_FORMS
from miro_jax.rewards.failure import RewardFailed

PROTOCOL = 1
HELLO_SECONDS = 600.0  # until the first line: enough to import a framework and to load weights
_QUIET_SECONDS = 10.0  # after which a line on stderr says what is waited for
_END_SECONDS = 5.0  # after its input has ended, and again after SIGTERM
_LAST_SECONDS = 5.0  # for the status and the stderr of a process whose stdout has ended
_MOST_BYTES = 1 << 24  # of a line
_TAIL = 400  # characters of stderr that an error shows
_HELLO = {
    "name": str,
    "version": str,
    "needs_caption": bool,
    "stored_offset?": float,
    "stored_divisor?": float,
    "synthetic_form?": str,
    "may_be_missing?": bool,
    "batch_size?": int,
    "timeout_seconds?": float,
}


class ScorerFailed(RewardFailed):
    """A scorer in a side process does not do what its protocol says."""


@dataclasses.dataclass(frozen=True)
class Hello:
    """The first line of a scorer: who it is.

    Attributes:
      name: must be the short name of the command. version: changes with the scores.
      needs_caption: False if captions do not matter.
      stored_offset, stored_divisor: the stored scale is (score + offset) / divisor.
      synthetic_form: "long" or "short", the synthetic caption that it judges.
      may_be_missing: null is a missing score and no failure.
      batch_size: most images of a line. timeout_seconds: for the answer to a line.
    """

    name: str
    version: str
    needs_caption: bool
    stored_offset: float = 0.0
    stored_divisor: float = 1.0
    synthetic_form: str = "long"
    may_be_missing: bool = False
    batch_size: int = 16
    timeout_seconds: float = 600.0

    @classmethod
    def parse(cls, message: dict[str, Any]) -> "Hello":
        """Read a first line.

        Raises:
          ValueError: a key is missing or unknown, or a value is not what it must be.
        """
        if (protocol := message.get("miro_scorer")) != PROTOCOL:
            raise ValueError(f"miro_scorer must be {PROTOCOL}; got {protocol!r}")
        given = {key: value for key, value in message.items() if key != "miro_scorer"}
        known = [key.rstrip("?") for key in _HELLO]
        if unknown := sorted(given.keys() - set(known)):
            raise ValueError(f"its keys must be of {', '.join(known)}; got {', '.join(unknown)}")
        check_fields(given, _HELLO, "its line")
        for key, value in given.items():
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"{key} must be finite; got {value}")
        hello = cls(**given)
        for key in ("stored_divisor", "batch_size", "timeout_seconds"):
            if getattr(hello, key) <= 0:
                raise ValueError(f"{key} must be above 0; got {getattr(hello, key)!r}")
        if hello.synthetic_form not in SYNTHETIC_FORMS:
            forms = ", ".join(SYNTHETIC_FORMS)
            raise ValueError(f"synthetic_form must be one of {forms}; got {hello.synthetic_form!r}")
        return hello


class Scorer:
    """A running scorer; it ends with `close`, with this object, or with this process.

    Args:
      words: the command. name: of the scorer, for messages.
      hello_seconds: until its first line.

    Raises:
      ScorerFailed: it cannot be started, or its first line is no hello.
    """

    def __init__(self, words: Sequence[str], name: str, hello_seconds: float = HELLO_SECONDS):
        self._name, self._batches, self._lock = name, 0, threading.Lock()
        pipe = subprocess.PIPE
        try:
            # Without buffers: closing one would wait for the thread that writes into it.
            self._process = subprocess.Popen(
                list(words), 0, stdin=pipe, stdout=pipe, stderr=pipe, start_new_session=True
            )
        except OSError as error:
            raise ScorerFailed(
                f"{name}: {words[0]} cannot be started: {error.strerror}."
            ) from error
        self._input: Any = self._process.stdin
        self._tail: collections.deque[str] = collections.deque(maxlen=_TAIL)
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._readers = [
            threading.Thread(target=_read_lines, args=(self._process.stdout, self._lines)),
            threading.Thread(target=_keep_tail, args=(self._process.stderr, self._tail)),
        ]
        for reader in self._readers:
            reader.daemon = True
            reader.start()
        self.close = weakref.finalize(self, _end, self._process)
        quiet = threading.Timer(_QUIET_SECONDS, _say_waiting, (name, hello_seconds))
        quiet.daemon = True
        quiet.start()
        try:
            message = self._receive("before its first line", hello_seconds)
        finally:
            quiet.cancel()
        try:
            self.hello = Hello.parse(message)
        except ValueError as error:
            raise self._failure(f"must begin with a hello: {error}") from error

    def score(self, images: Sequence[str], captions: Sequence[str]) -> list[float]:
        """Return a score for each image, NaN where it has none.

        Args:
          images: paths, at most `hello.batch_size`. captions: one for each.

        Raises:
          ScorerFailed: it ended, did not answer in time, or its answer is wrong.
        """
        with self._lock:
            number, self._batches = self._batches, self._batches + 1
            request = {"batch": number, "images": list(images), "captions": list(captions)}
            line = json.dumps(request).encode("ascii") + b"\n"
            # A scorer that reads nothing must not block this process.
            threading.Thread(target=self._send, args=(line,), daemon=True).start()
            when = f"at batch {number}"
            answer = self._receive(when, self.hello.timeout_seconds)
            return self._check(answer, number, len(images))

    def _send(self, line: bytes) -> None:
        with contextlib.suppress(OSError, ValueError):  # it has ended, which its output shows
            rest = memoryview(line)
            while rest:
                rest = rest[self._input.write(rest) :]

    def _receive(self, when: str, seconds: float) -> dict[str, Any]:
        """Return the next line of its output."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise self._failure(f"did not answer for {seconds:g} s {when}") from None
        if not line:
            raise self._failure(f"{self._ending()} {when}")
        try:
            message = parse_json(line, "its line", finite=False)
        except ValueError:
            message = None
        if not isinstance(message, dict):
            start = printable(line[:60].decode("utf-8", "replace").strip())
            raise self._failure(
                f"must write one JSON object a line to its stdout, and all else to stderr; {when} "
                f"it wrote {start!r}"
            )
        return message

    def _check(self, answer: dict[str, Any], number: int, count: int) -> list[float]:
        """Return the scores of an answer."""
        when = f"batch {number}"
        if "error" in answer:
            raise self._failure(f"gave up {when}: {printable(answer['error'])}")
        if answer.get("batch") != number:
            raise self._failure(f"must answer {when}; it answered batch {answer.get('batch')!r}")
        scores = answer.get("scores")
        if not isinstance(scores, list) or len(scores) != count:
            gave = f"{len(scores)}" if isinstance(scores, list) else f"{scores!r:.60}"
            raise self._failure(f"must answer {when} with {count} scores; it gave {gave}")
        for position, score in enumerate(scores):
            if score is not None and not _is_finite(score):
                raise self._failure(
                    f"must give finite numbers or null; images[{position}] of {when} got "
                    f"{score!r:.60}"
                )
        return [math.nan if score is None else float(score) for score in scores]

    def _ending(self) -> str:
        """Return how it ended."""
        try:
            status = self._process.wait(_LAST_SECONDS)
        except subprocess.TimeoutExpired:
            return "closed its stdout"
        if status >= 0:
            return f"ended with status {status}"
        return f"was ended by {signal.Signals(-status).name}"

    def _failure(self, what: str) -> ScorerFailed:
        """End the process; return the error with the end of its stderr."""
        self.close()
        self._readers[1].join(_LAST_SECONDS)
        tail = printable(" ".join("".join(self._tail).split()))
        shown = f"the end of its stderr: {tail}" if tail else "its stderr is empty"
        failed = ScorerFailed(f"The scorer {self._name} {what}; {shown}")
        failed.remedy = "Run it by hand and mend it; docs/add_a_reward.md has its protocol."
        return failed


def _is_finite(value: Any) -> bool:
    number = isinstance(value, int | float) and not isinstance(value, bool)
    return number and math.isfinite(value)


def _say_waiting(name: str, seconds: float) -> None:
    text = f"waiting for the first line of the scorer {printable(name)}, {seconds:g} s at most"
    print(text, file=sys.stderr, flush=True)


def _read_lines(stdout: Any, lines: queue.SimpleQueue[bytes]) -> None:
    """Put the lines of a stream into a queue, b"" at its end."""
    with io.BufferedReader(stdout) as stdout:
        while line := stdout.readline(_MOST_BYTES):
            lines.put(line)
    lines.put(b"")


def _keep_tail(stderr: Any, tail: collections.deque[str]) -> None:
    with stderr:
        while data := stderr.read(1 << 16):
            tail.extend(data.decode("utf-8", "replace"))


def _end(process: subprocess.Popen) -> None:
    """End a process and those that it started, which share its session."""
    stdin: Any = process.stdin
    with contextlib.suppress(OSError, ValueError):
        stdin.close()
    for number in (None, signal.SIGTERM, signal.SIGKILL):
        if number is not None:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(_END_SECONDS)
            return
