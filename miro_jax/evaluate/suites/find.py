"""The images of a folder or table, each with the prompt of a suite that it is an image of.

    GenEval's layout     FOLDER/00012/metadata.jsonl, FOLDER/00012/samples/0003.png
    ours                 FOLDER/manifest.json, as `miro-jax sample` writes it
    any other            a table of paths and captions, or a folder with KEY.txt beside KEY.png, or
                         with a table of captions

Images find their prompts by the text, not by numbers of folders: another order changes nothing, and
a prompt that was rewritten is no prompt of the suite. A set that lacks an image is refused, for its
score would be that of an easier suite.
"""

import collections
import dataclasses
import functools
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from miro_jax.cli.exit import note
from miro_jax.data.json_file import MOST_BYTES, parse_json
from miro_jax.data.printable import counted, some
from miro_jax.data.regular_file import read_regular
from miro_jax.data.sources import Source, Tables, tables
from miro_jax.data.sources.captions import index_captions
from miro_jax.data.sources.root import Root
from miro_jax.data.sources.texts import clean
from miro_jax.evaluate.suites.base import Suite, SuitePrompt
from miro_jax.score.inputs import names_of, open_input, open_rows

METADATA, SAMPLES = "metadata.jsonl", "samples"
GENEVAL, OURS, TABLE, FOLDER = "geneval", "miro_jax", "table", "folder"
_PICTURE = re.compile(r".*\.(png|jpg|jpeg|webp)", re.IGNORECASE)
_IMAGE = re.compile(rf"\d+{_PICTURE.pattern}", re.IGNORECASE)
_LINE = {"prompt": str, "tag?": str}


@dataclasses.dataclass(frozen=True)
class SuiteImage:
    """An image of a suite. key, sample: see `rows`. file: as it is called. path: where it lies."""

    prompt: SuitePrompt
    sample: int
    file: str
    path: str
    read: Callable[[], bytes] = dataclasses.field(compare=False)

    @property
    def key(self) -> str:
        """The key of its prompt."""
        return self.prompt.key

    def row(self, sha256: str, **more: Any) -> dict[str, Any]:
        """Return its row of the per-image file but for what judges say, see `rows`."""
        own = {"key": self.key, "sample": self.sample, "file": self.file, "sha256": sha256}
        return own | {"prompt": self.prompt.text, "tag": self.prompt.tag} | more


@dataclasses.dataclass(frozen=True)
class Found:
    """The images of a suite in one folder or table.

    Attributes:
      images: by key, then by sample. layout: GENEVAL, OURS, TABLE or FOLDER.
      per_prompt: images that each prompt should have. missing: (key, sample) that are not there.
      digest: of the names and sizes of all files, so that another set does not resume this one.
    """

    images: tuple[SuiteImage, ...]
    layout: str
    per_prompt: int
    missing: tuple[tuple[str, int], ...]
    digest: str


@dataclasses.dataclass(frozen=True)
class File:
    """A file. text: its prompt, None where there is none. path: where it lies."""

    name: str
    text: str | None
    path: str
    read: Callable[[], bytes]


def find_images(
    what: str | Path,
    suite: Suite,
    per_prompt: int | None = None,
    captions: str | None = None,
    partial: bool = False,
) -> Found:
    """Find the images of a suite.

    Args:
      what: a folder of images, or a table of paths and captions.
      suite: whose prompts the images must show.
      per_prompt: images that every prompt must have; None is the suite's own number, or where
        rewards are all that is measured, as many as the prompt with the most of them has.
      captions: a table of paths and captions, in place of those that `what` has.
      partial: accept a set that lacks images.

    Raises:
      FileNotFoundError: there are no images, or none of this suite.
      ValueError: images are missing, or too many, or belong to no prompt of the suite.
    """
    what = os.path.expanduser(str(what))
    layout, files = _list(what, suite, captions)
    return match(what, layout, files, suite, per_prompt, partial)


def match(
    what: str,
    layout: str,
    files: Sequence[File],
    suite: Suite,
    per_prompt: int | None,
    partial: bool,
) -> Found:
    """Give files their prompts; `what` is for messages, see `find_images` for the rest."""
    groups: dict[str, list[File]] = {clean(prompt.text): [] for prompt in suite.prompts}
    foreign = []
    for file in files:
        text = None if file.text is None else clean(file.text)
        (foreign if text not in groups else groups[text]).append(file)
    if foreign:
        raise ValueError(_describe_foreign(what, suite, foreign))
    number = per_prompt or (suite.samples_per_prompt if suite.score else _most(suite, groups))
    images, missing, surplus = _assign(suite, groups, number)
    if surplus:
        raise ValueError(
            f"{what} must hold {counted(number, 'image')} of each prompt of {suite.name}; it holds "
            f"{len(groups[surplus])} of {surplus[:60]!r}. Set --images-per-prompt, or remove those "
            "of another run."
        )
    if missing and not partial:
        each = f"{counted(number, 'image')} of each of the {counted(len(suite.prompts), 'prompt')}"
        names = some([f"{key}/{sample}" for key, sample in missing])
        raise ValueError(
            f"{what} must hold {each} of {suite.name}; it lacks {len(missing)} of "
            f"{number * len(suite.prompts)}: {names}. Sample them, set --images-per-prompt, or "
            "evaluate what there is with --partial, which marks the result."
        )
    digest = hashlib.sha256()
    for image in images:
        digest.update(f"{image.key}\0{image.sample}\0{image.file}\0{_size(image)}\n".encode())
    return Found(tuple(images), layout, number, tuple(missing), digest.hexdigest())


def _size(image: SuiteImage) -> int:
    return os.path.getsize(image.path) if os.path.isfile(image.path) else -1


def _most(suite: Suite, groups: dict[str, list[File]]) -> int:
    """Return how many images the prompt with the most of them has; prompts may share a text."""
    shared = collections.Counter(clean(prompt.text) for prompt in suite.prompts)
    return max(-(-len(files) // shared[text]) for text, files in groups.items())


def _assign(
    suite: Suite, groups: dict[str, list[File]], number: int
) -> tuple[list[SuiteImage], list[tuple[str, int]], str]:
    """Return the images, the (key, sample) without one, and a prompt that has too many."""
    images, missing, used = [], [], dict.fromkeys(groups, 0)
    for prompt in sorted(suite.prompts, key=lambda prompt: prompt.key):
        text = clean(prompt.text)
        own = groups[text][used[text] : used[text] + number]
        used[text] += len(own)
        images += [
            SuiteImage(prompt, sample, file.name, file.path, file.read)
            for sample, file in enumerate(own)
        ]
        missing += [(prompt.key, sample) for sample in range(len(own), number)]
    surplus = next((text for text, files in groups.items() if used[text] < len(files)), "")
    return images, missing, surplus


def _list(what: str, suite: Suite, captions: str | None) -> tuple[str, list[File]]:
    if os.path.isdir(what) and captions is None and (folders := _prompt_folders(what)):
        return GENEVAL, list(_list_geneval(what, folders, suite))
    rows = open_rows([what], None, None)
    given = Tables()
    if captions is not None:
        given = Tables(captions=index_captions(tables.open_table(captions)))
    source = open_input([what], rows, given)
    _note_unused(captions, source, given)
    root = what if os.path.isdir(what) else os.path.dirname(os.path.abspath(what))
    files = [
        File(sample.key, sample.caption, os.path.join(root, sample.key), sample.read)
        for piece in source.pieces
        for sample in piece.samples(needs_caption=False)
    ]
    is_ours = os.path.isdir(what) and rows is not None
    return OURS if is_ours else TABLE if rows is not None else FOLDER, files


def _note_unused(path: str | None, source: Source, given: Tables) -> None:
    """Say which rows of a table of captions are of no image: these are not evaluated."""
    if given.captions is None:
        return
    count, first = given.captions.unused(names_of(source))
    if count:
        note(
            f"warning: {counted(count, 'name')} of {path} {'is' if count == 1 else 'are'} of no "
            f"image, the first is {first!r}."
        )


def _prompt_folders(what: str) -> list[str]:
    names = [name for name in os.listdir(what) if name.isdecimal()]
    return sorted(
        (name for name in names if os.path.isfile(os.path.join(what, name, METADATA))),
        key=lambda name: (int(name), name),
    )


def _list_geneval(what: str, folders: Sequence[str], suite: Suite) -> Iterator[File]:
    prompts = {prompt.text: prompt for prompt in suite.prompts}
    root = Root(what)
    for folder in folders:
        path = os.path.join(what, folder, METADATA)
        line = read_regular(path, MOST_BYTES).split(b"\n", 1)[0]
        entry = parse_json(line, f"line 1 of {path}", _LINE)
        text, tag = entry["prompt"], entry.get("tag")
        if text in prompts and prompts[text].tag and tag not in (None, prompts[text].tag):
            raise ValueError(
                f"{path} must have the tag {prompts[text].tag!r} as {suite.name} has it; got "
                f"{tag!r}. Its metadata was changed."
            )
        inside = os.path.join(what, folder, SAMPLES)
        listed = sorted(os.listdir(inside)) if os.path.isdir(inside) else []
        names = list(filter(_IMAGE.fullmatch, listed))
        if not names and (other := list(filter(_PICTURE.fullmatch, listed))):
            raise ValueError(
                f"the images of {inside} must be named by their numbers, such as 0000.png; it "
                f"holds {other[0]}. Rename them, or give a table of paths and prompts with "
                "--captions."
            )
        for name in sorted(names, key=lambda name: (int(re.match(r"\d+", name)[0]), name)):
            file = f"{folder}/{SAMPLES}/{name}"
            read = functools.partial(root.read, file)
            yield File(file, text, os.path.join(what, file), read)


def _describe_foreign(what: str, suite: Suite, foreign: Sequence[File]) -> str:
    first, number = foreign[0], len(foreign)
    have = "has" if number == 1 else "have"
    if first.text is None:
        return (
            f"{what} must give each image its prompt; {number} {have} none, the first is "
            f"{first.name}. Give a table of paths and prompts with --captions."
        )
    return (
        f"{what} must hold images of the prompts of {suite.name}; {number} {have} other "
        f"prompts, the first is {first.name} of {first.text[:60]!r}. Rewritten prompts are another "
        "benchmark: give them as a prompt file with --suite=FILE."
    )
