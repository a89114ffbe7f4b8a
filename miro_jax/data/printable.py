"""Text that is safe on a terminal and in a log: what would be obeyed or hidden is shown instead.

Names of files, keys and captions come from strangers. An escape in one of them could clear the
screen, and a change of direction could show a name backwards.
"""

import re
from collections.abc import Sequence

# Controls, separators of lines, changes of direction, characters without width other than the
# joiners that words of some languages need, halves of surrogate pairs, tags.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\xad\u061c\u180e\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff"
    "\ufff9-\ufffb\ud800-\udfff\U000e0000-\U000e007f]"
)


def counted(number: int, noun: str) -> str:
    """Return a number with its noun: "1 image", "1,200 images".

    Args:
      noun: the singular; its plural ends in s.
    """
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def in_bytes(count: float, digits: int) -> str:
    """Return a number of bytes in the unit that suits it; kB have one digit after the point."""
    for unit, size in (("TB", 1e12), ("GB", 1e9), ("MB", 1e6)):
        if count >= size:
            return f"{count / size:,.{digits}f} {unit}"
    return f"{count / 1e3:,.1f} kB"


def in_time(hours: float) -> str:
    """Return hours as "1.5 hours", less than one as minutes."""
    return f"{hours:,.1f} hours" if hours >= 1 else f"{60 * hours:,.1f} minutes"


def some(words: Sequence[object], between: str = ", ", most: int = 3) -> str:
    """Return the first of many words for a message: "a, b, c, ...".

    Args:
      between: words. most: words that are written out.
    """
    return between.join([*map(str, words[:most]), *(["..."] if len(words) > most else [])])


def printable(text: object, lines: bool = False) -> str:
    r"""Return text in which each such character is written as an escape: `\x1b`, `\u202e`.

    Args:
      text: anything; its str is taken.
      lines: the text is of several lines: line feeds and tabs stay.
    """

    def show(match: re.Match) -> str:
        character = match[0]
        if lines and character in "\n\t":
            return character
        return character.encode("unicode_escape").decode("ascii")

    return _UNSAFE.sub(show, str(text))
