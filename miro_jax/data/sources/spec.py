"""The text that names a source: KIND:PATH, with options after a question mark.

    tar:/data/cc12m/{00000..01242}.tar?synthetic=/data/recaptioned.tsv
    folder:/data/photos?captions=/data/photos.csv
    tfds:coco_captions/2014:1.1.0@/data/tfds?split=train
    table:gs://bucket/train-*.parquet?image=jpg&caption=text

A question mark is a wild card too; options are what looks like NAME=VALUE&NAME=VALUE at the end.
Values are taken as they stand, so a file whose name holds `&` cannot be named there.
"""

import dataclasses
import os
import re
from collections.abc import Mapping

# Kind -> the options it understands.
OPTIONS = {
    "tar": ("captions", "synthetic"),
    "folder": ("captions", "synthetic", "per_piece"),
    "table": ("image", "caption", "synthetic", "per_piece"),
    "tfds": ("split", "image", "caption", "synthetic"),
}
KINDS = tuple(OPTIONS)
_OPTIONS_AT_END = re.compile(r"\?(\w+=[^&]*(?:&\w+=[^&]*)*)$")


@dataclasses.dataclass(frozen=True)
class Spec:
    """A source's text, taken apart. options: name -> value, both as written.

    allow_urls: the source may read files and addresses outside of its own folder.
    """

    kind: str
    path: str
    options: Mapping[str, str]
    allow_urls: bool = False

    def number(self, name: str, default: int) -> int:
        """Return an option that is a number of at least 1.

        Raises:
          ValueError: it is not.
        """
        text = self.options.get(name, str(default))
        if not text.isdecimal() or int(text) < 1:
            raise ValueError(f"{name} of a source must be a number of at least 1; got {text!r}.")
        return int(text)


def _guess(text: str) -> str:
    """Return what a path without a kind may mean."""
    if os.path.isdir(text):
        return f" Did you mean 'folder:{text}'?"
    end = os.path.splitext(text)[1].lower()
    if end in (".csv", ".tsv", ".jsonl"):
        return f" Give the images, and their captions as 'folder:DIR?captions={text}'."
    if end not in (".tar", ".parquet") or ":" in text:
        return ""
    return f" Did you mean '{'tar' if end == '.tar' else 'table'}:{text}'?"


def parse(text: str, allow_urls: bool = False) -> Spec:
    """Take the text of a source apart; for `allow_urls` see `Spec`.

    Raises:
      ValueError: unknown kind or option, no path, or a command in its place.
    """
    kind, _, path = text.partition(":")
    if "pipe" in (kind, path.partition(":")[0]):
        raise ValueError(f"A source must name files; the command {text!r} is not run. Save them.")
    path = path.removeprefix("file://")
    if kind not in KINDS or not path:
        raise ValueError(
            f"A source must be KIND:PATH with a kind of {', '.join(map(repr, KINDS))}, such as "
            f"'tar:/data/*.tar'; got {text!r}.{_guess(text)}"
        )
    options: dict[str, str] = {}
    if match := _OPTIONS_AT_END.search(path):
        path = path[: match.start()]
        for item in match[1].split("&"):
            name, _, value = item.partition("=")
            if name not in OPTIONS[kind] or name in options or not value:
                raise ValueError(
                    f"Options of a {kind} source must be some of {', '.join(OPTIONS[kind])}, each "
                    f"once and with a value; got {item!r} in {text!r}."
                )
            options[name] = _home(value)
    return Spec(kind, _home(path), options, allow_urls)


def _home(path: str) -> str:
    """Replace a `~` by the user's folder, which no shell does inside of a word."""
    return os.path.expanduser(path) if path.startswith("~/") else path
