"""Tar shards as img2dataset and webdataset write them: KEY.jpg, KEY.txt, KEY.json side by side.

The key is the member's path up to the first dot of its name; members of one key that follow each
other are one sample. Whatever is damaged, the rest is read; a sample next to damage that lacks a
part which others have is not used, for its synthetic caption might be what is lost.
"""

import dataclasses
import functools
from collections.abc import Iterator

from miro_jax.data.sources import archive, listing, reading
from miro_jax.data.sources.images import MAX_BYTES
from miro_jax.data.sources.sample import Piece, Sample, Tables, damage, make_sample
from miro_jax.data.sources.spec import Spec
from miro_jax.data.sources.texts import interpret

IMAGE_EXTENSIONS = (
    *("jpg", "jpeg", "png", "webp", "gif", "bmp", "tif", "tiff", "avif", "jp2", "ppm"),
    *("jfif", "jpe", "ico"),
)
TEXT_EXTENSIONS = ("txt", "caption")  # the latter as kohya's scripts write it; txt counts first
_USED = {*IMAGE_EXTENSIONS, *TEXT_EXTENSIONS, "json"}


class _Open:
    """The members of one key.

    near_damage: damage stands before or between or after them. distrusted: bytes were lost or
    inserted where one of them ends, which may have changed it.
    """

    def __init__(self, key: str, near_damage: bool):
        self.key, self.near_damage, self.distrusted = key, near_damage, False
        self.members: dict[str, archive.Member] = {}

    @property
    def image(self) -> archive.Member | None:
        """The member that is the image; if there are several, the first kind of the list."""
        return next((self.members[e] for e in IMAGE_EXTENSIONS if e in self.members), None)

    @property
    def text(self) -> archive.Member | None:
        """The member that is the caption."""
        return next((self.members[e] for e in TEXT_EXTENSIONS if e in self.members), None)

    @property
    def parts(self) -> set[str]:
        """What it has of an image, a txt and a json."""
        has = {"image": self.image, "txt": self.text, "json": self.members.get("json")}
        return {name for name, member in has.items() if member is not None}


def list_tars(spec: Spec, tables: Tables) -> list[Piece]:
    """Return one piece for each archive that a pattern names.

    Raises:
      FileNotFoundError: the pattern, or a part of it, matches nothing.
    """
    folder = listing.fixed_folder(spec.path)
    pieces = []
    for number, file in enumerate(listing.match_files(spec.path)):
        name = reading.readable(reading.relative(file.path, folder))
        read = functools.partial(_samples, file.path, name)
        sign = functools.partial(reading.fingerprint, file.path)
        pieces.append(Piece(number, name, None, file.size, read, sign, tables))
    return pieces


def _samples(path: str, name: str) -> Iterator[Sample]:
    """Yield samples and damage. Damage comes before the samples next to it.

    A sample should have the parts that others far from damage have; until there is one of these,
    those near damage wait.
    """
    usual: set[str] = set()
    waiting: list[_Open] = []
    for group in _groups(path):
        if isinstance(group, archive.Damage):
            yield damage(name, "damaged tar", f"at byte {group.offset}: {group.reason}")
        elif group.near_damage and not usual:
            waiting.append(group)
        elif group.near_damage:
            yield _sample(path, name, group, usual)
        else:
            usual |= group.parts
            yield from (_sample(path, name, earlier, usual) for earlier in waiting)
            waiting = []
            yield _sample(path, name, group, usual)
    yield from (_sample(path, name, earlier, usual) for earlier in waiting)


def _groups(path: str) -> Iterator[_Open | archive.Damage]:
    """Put members of one key together."""
    group, near = None, False
    with reading.open_read(path) as file:
        for member in archive.members(file, reading.size_of(path)):
            if isinstance(member, archive.Damage):
                near = True
                if group is not None:
                    group.near_damage = True
                    group.distrusted |= member.stray
                yield member
                continue
            folder, slash, name = member.name.rpartition("/")
            stem, _, extension = name.partition(".")
            key, extension = folder + slash + stem, extension.lower()
            if not stem or not (member.regular or extension in _USED):  # a hidden file has no stem
                continue
            if group is None or key != group.key or extension in group.members:
                if group is not None:
                    yield group
                group, near = _Open(key, near), False
            group.near_damage |= near
            near = False
            if extension not in _USED:  # a key may have any number of these
                member = dataclasses.replace(member, content=None)
            group.members[extension] = member
    if group is not None:
        yield group


def _unread(group: _Open) -> tuple[str, str]:
    """Return the cause why the content of a member is not there, and a detail; or two ""."""
    for member, odd, large in (
        (group.image, "not a file", "too large"),
        (group.text, "unreadable caption", "caption too long"),
        (group.members.get("json"), "unreadable json", "unreadable json"),
    ):
        if member is not None and not member.regular:
            return odd, "a link, or stored in pieces"
        if member is not None and member.content is None:
            return large, f"a file of {member.size} bytes, at most {MAX_BYTES}"
    if group.image is None or not {"txt", "json"} & group.parts:
        endings = [f".{ending}" for ending in group.members]
        more = f" and {len(endings) - 10} more" if len(endings) > 10 else ""
        return "", f"it has {', '.join(endings[:10])}{more}"
    return "", ""


def _sample(path: str, name: str, group: _Open, usual: set[str]) -> Sample:
    """Interpret the members of one key. usual: parts that a whole sample has; none if not known."""
    members, image, problem, detail = group.members, group.image, "", ""
    txt, meta = (one and one.content for one in (group.text, members.get("json")))
    texts = interpret(txt, meta)
    inside = [group.key] if image is None else [group.key, image.name]
    before = ("", f"{name}/", f"{reading.absolute(path)}/")
    names = [start + one for start in before for one in inside]  # as a table may call it
    lost = sorted(usual - group.parts) if usual else ["perhaps a part"]
    if group.distrusted:
        problem, detail = "cut short by damage", "ends where bytes were lost or inserted"
    elif group.near_damage and lost:
        problem, detail = "cut short by damage", f"lacks {', '.join(lost)}"
    else:
        problem, detail = _unread(group)
    content = None if image is None else image.content
    return make_sample(f"{name}/{group.key}", content, texts, names, problem, detail)
