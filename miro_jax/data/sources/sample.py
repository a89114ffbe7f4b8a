"""What every kind of source gives: samples, in pieces."""

import dataclasses
import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from miro_jax.data.sources import causes, texts
from miro_jax.data.sources.captions import TextIndex
from miro_jax.data.sources.images import BadImage


@dataclasses.dataclass(frozen=True)
class Sample:
    """One image with its captions, not decoded.

    key: its name inside the source. image: the encoded file, or what reads it, or None.
    caption: or None. synthetic: {"long": text, "short": text}, or empty.
    meta: further values, as JSON has them. problem: why it cannot be used, one of `causes`, or "".
    detail: what a cause alone does not say. names: what tables of captions may call it, the
    likeliest first. no_caption: cause and detail where a caption is not needed and not usable.
    position: in its piece. width, height, digest: pixels, and of the file, once it is decoded.
    """

    key: str
    image: bytes | Callable[[], bytes] | None
    caption: str | None
    synthetic: dict[str, str]
    meta: dict
    problem: str = ""
    detail: str = ""
    names: tuple[str, ...] = ()
    no_caption: tuple[str, str] = ("", "")
    position: int = 0
    width: int = 0
    height: int = 0
    digest: str = ""

    def __post_init__(self):
        if self.problem:
            causes.check(self.problem)

    @property
    def num_bytes(self) -> int:
        """Bytes of the encoded file as far as it is in memory."""
        return len(self.image) if isinstance(self.image, bytes) else 0

    def read(self) -> bytes:
        """Return the encoded file; any thread may call this.

        Raises:
          BadImage: there is no such file, or it is none that can be read.
          OSError: the storage itself fails.
        """
        if self.image is None:
            raise BadImage("missing image")
        return self.image() if callable(self.image) else self.image


def make_sample(
    key: str,
    image: bytes | Callable[[], bytes] | None,
    read: texts.Texts,
    names: Iterable[str],
    problem: str = "",
    detail: str = "",
) -> Sample:
    """Return a sample with its texts; a problem given stands above theirs."""
    problem, detail = (problem, detail) if problem else (read.problem, detail or read.detail)
    return Sample(
        key, image, read.caption, read.synthetic, read.meta, problem, detail, tuple(names)
    )


def damage(piece_id: str, cause: str, detail: str) -> Sample:
    """Return what stands for a damaged part of a piece among its samples; its key is the piece."""
    return Sample(piece_id, None, None, {}, {}, cause, detail)


@dataclasses.dataclass(frozen=True)
class Tables:
    """Texts of tables that replace those beside the images; see `captions`.

    captions: by any of a sample's names. synthetic: (short, long), by the first.
    """

    captions: TextIndex | None = None
    synthetic: TextIndex | None = None


@dataclasses.dataclass(frozen=True)
class Piece:
    """A part of a source that is read as a whole: a tar, a shard, a run of files or rows.

    number: 0, 1, 2, ... in the source. id: a name that stays where other pieces come or go.
    count: samples, or None where only reading tells. num_bytes: of its files, or None.
    read, sign: of its kind: yield samples; return the fingerprint. sign_again: the same, where
    `sign` goes by a listing that was made before. has_captions: False where it is known that
    only a table can have any. keys_repeat: one image may stand in several samples.
    """

    number: int
    id: str
    count: int | None
    num_bytes: int | None
    read: Callable[[], Iterator[Sample]]
    sign: Callable[[], str]
    tables: Tables = Tables()
    sign_again: Callable[[], str] | None = None
    has_captions: bool = True
    keys_repeat: bool = False

    def samples(self, needs_caption: bool = True) -> Iterator[Sample]:
        """Read the samples in their order, which is always the same.

        Args:
          needs_caption: a sample without a usable caption has a problem; else it has no caption.

        Yields:
          Every sample, one that cannot be used with its `problem`. Damage of the piece itself
          is such a sample too, its cause one of `causes.OF_A_PIECE` and its key the piece's id.
          Keys of samples without a problem are unique in the whole source.

        Raises:
          OSError: the storage itself fails.
        """
        seen: set[str] = set()
        for sample in self.read():
            is_repeated = sample.key in seen and not self.keys_repeat
            yield complete(sample, self.tables, needs_caption, is_repeated)
            seen.add(sample.key)

    def first(self, samples: int, **changes: Any) -> "Piece":
        """Return its first samples as a piece; `changes` are further fields of it."""
        read = functools.partial(_first, self.read, samples)
        return dataclasses.replace(self, read=read, **changes)

    def fingerprint(self, again: bool = False) -> str:
        """Return a short digest that changes when the piece does; cheap, so not of every byte.

        Args:
          again: ask for the files as they are now, and not as they were listed.

        Raises:
          OSError: a file is gone or cannot be read.
        """
        return self.sign_again() if again and self.sign_again else self.sign()


def _first(read: Callable[[], Iterator[Sample]], count: int) -> Iterator[Sample]:
    return itertools.islice(read(), count)


def complete(
    sample: Sample, tables: Tables, needs_caption: bool = True, is_repeated: bool = False
) -> Sample:
    """Take the texts of tables, clean all, and say why a sample cannot be used.

    Args:
      sample: as its file has it.
      needs_caption: see `Piece.samples`.
      is_repeated: another sample had the same key.
    """
    sample = _with_tables(sample, tables)
    problem, detail = _problem_of(sample, is_repeated)
    if problem == "missing caption" and sample.caption is None and tables.captions is not None:
        if tables.captions.find(sample.names) is None:
            detail = tables.captions.describe_missing()
    if problem in causes.OF_TEXTS and not needs_caption:
        gone = {"caption": None, "synthetic": {}, "problem": "", "detail": ""}
        sample = dataclasses.replace(sample, **gone, no_caption=(problem, detail))
        problem, detail = _problem_of_image(sample, is_repeated)
    return dataclasses.replace(
        sample,
        caption=None if sample.caption is None else texts.clean(sample.caption),
        synthetic={form: texts.clean(text) for form, text in sample.synthetic.items()},
        problem=problem,
        detail=detail,
    )


def _with_tables(sample: Sample, tables: Tables) -> Sample:
    changes: dict[str, Any] = {}
    match = tables.captions and tables.captions.find(sample.names)
    clash = match.clash if match else ""
    if tables.captions is not None:
        caption = changes["caption"] = match.texts[0] if match else None
        # What stands in for a missing form is the caption as it is now.
        changes["synthetic"] = texts.synthetic_of(sample.meta | {"caption": caption}, caption)
        if sample.problem in causes.OF_TEXTS - {"unreadable json"}:  # of the text it replaces
            changes |= {"problem": "", "detail": ""}
    if tables.synthetic is not None:
        match = tables.synthetic.find(sample.names) if sample.names else None
        short, long = match.texts if match else (None, None)
        changes["synthetic"] = texts.forms(long, short, changes.get("caption", sample.caption))
        clash = clash or (match.clash if match else "")
    if clash and not changes.get("problem", sample.problem):
        changes |= {"problem": "ambiguous caption", "detail": clash}
    return dataclasses.replace(sample, **changes)


def _problem_of(sample: Sample, is_repeated: bool) -> tuple[str, str]:
    """Return the first cause why a sample cannot be used, and its detail; or two empty texts."""
    problem, detail = _problem_of_image(sample, is_repeated)
    for text in (sample.caption or "", *sample.synthetic.values()):
        if not problem:
            problem, found = texts.check(text)
            detail = found or (sample.detail if problem == "missing caption" else "")
    return problem, detail


def _problem_of_image(sample: Sample, is_repeated: bool) -> tuple[str, str]:
    if sample.problem:
        return sample.problem, sample.detail
    if is_repeated:
        return "duplicate key", ""
    if sample.image is None:
        return "missing image", sample.detail
    return ("empty file", "") if sample.image == b"" else ("", "")


def expected_samples(
    pieces: Sequence[Piece], seen: Sequence[Piece] = (), samples: int = 0
) -> float | None:
    """Return how many samples pieces have: counted, or guessed from those of some of them.

    Args:
      seen: pieces that were read. samples: that they have.

    Returns:
      None if there is nothing to go by.
    """
    counts = [piece.count for piece in pieces if piece.count is not None]
    if len(counts) == len(pieces):
        return sum(counts)
    if not seen:
        return None
    sizes = [piece.num_bytes for piece in pieces if piece.num_bytes is not None]
    seen_sizes = [piece.num_bytes for piece in seen if piece.num_bytes is not None]
    if len(sizes) < len(pieces) or len(seen_sizes) < len(seen) or not sum(seen_sizes):
        return samples * len(pieces) / len(seen)
    return samples * sum(sizes) / sum(seen_sizes)


@dataclasses.dataclass(frozen=True)
class Source:
    """Images with captions in numbered pieces, which do not depend on who reads them.

    spec: the text that named it. facts: JSON values that its samples depend on besides the pieces:
    kind, options, digests of the tables.
    """

    spec: str
    facts: dict[str, Any]
    pieces: list[Piece]
