"""Tar archives read forwards, through damage: every member that can be read, and every flaw.

An archive is a row of blocks of 512 bytes: a header, the member's bytes filled up with zeros, the
next header, ..., and at the end at least two blocks of zeros. `tarfile` stops without a word at a
header that does not add up and at a cut between members. Here such a place is reported, and reading
goes on at the next header, found by the word `ustar` that all archives of the last decades hold and
proven by its checksum; so bytes that are lost or inserted shift nothing.

Source: POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".
"""

import dataclasses
from collections.abc import Iterator
from typing import BinaryIO

from miro_jax.data.sources.images import MAX_BYTES

BLOCK = 512
_END_MARKER_BYTES = 2 * BLOCK
_MAGIC, _MAGIC_AT = b"ustar", 257
_MAX_EXTENSION_BYTES = 1 << 20  # of a header that only carries a long name
_CHUNK = 1 << 20
_REGULAR = (b"0", b"\0", b"7")
_ZEROS = bytes(BLOCK)
_COMPRESSED = {
    "gzip": b"\x1f\x8b\x08",
    "bzip2": b"BZh",
    "xz": b"\xfd7zXZ\0",
    "zstd": b"\x28\xb5\x2f\xfd",
}


@dataclasses.dataclass(frozen=True)
class Member:
    """A member. name: as text. content: None where it is no regular file. size: bytes it claims.

    A regular file of more than MAX_BYTES has no content either.
    """

    name: str
    regular: bool
    size: int
    content: bytes | None


@dataclasses.dataclass(frozen=True)
class Damage:
    """A place where the archive is not what it must be.

    offset: its byte. reason: in words. stray: nothing there looks like a header, so that bytes may
    have been lost or inserted before it, and the member that ends there may hold others than its
    own.
    """

    offset: int
    reason: str
    stray: bool = False


class _BadHeader(ValueError):
    """A block that is no header."""


@dataclasses.dataclass(frozen=True)
class _More:
    """What headers before a member's own say of it. sparse: its content is stored in pieces."""

    name: bytes | None = None
    size: int | None = None
    sparse: bool = False


@dataclasses.dataclass
class _Header:
    name: bytes
    size: int
    kind: bytes


class _Stream:
    """A file read forwards, into which bytes can be put back. offset: of the next byte."""

    def __init__(self, file: BinaryIO):
        self._file, self._back, self._place, self.offset = file, b"", 0, 0

    def read(self, length: int) -> bytes:
        """Return the next bytes, fewer at the end only."""
        parts = [self._back[self._place : self._place + length]]
        self._place += len(parts[0])
        wanted = length - len(parts[0])
        while wanted > 0 and (part := self._file.read(wanted)):
            parts.append(part)
            wanted -= len(part)
        data = b"".join(parts)
        self.offset += len(data)
        return data

    def put_back(self, data: bytes) -> None:
        """Make bytes that were read the next ones again."""
        self._back, self._place = data + self._back[self._place :], 0
        self.offset -= len(data)

    def skip(self, length: int) -> None:
        """Pass over bytes, at most to the end."""
        while length > 0 and (data := self.read(min(length, _CHUNK))):
            length -= len(data)


def members(file: BinaryIO, size: int) -> Iterator[Member | Damage]:
    """Read an archive.

    Args:
      file: at its beginning.
      size: its bytes.

    Yields:
      Members in order, and damage where it is.
    """
    stream, more = _Stream(file), _More()
    while True:
        begin = stream.offset
        block = stream.read(BLOCK)
        try:
            if block == _ZEROS:
                _read_end(stream, begin)
                return
            if begin == 0:
                _check_beginning(block)
            header = _parse(block)
            if header.kind == b"S":  # more of its map stands between the header and the bytes
                more_of_map, place = block, 482
                while len(more_of_map) == BLOCK and more_of_map[place]:
                    more_of_map, place = stream.read(BLOCK), 504
            extension = header.kind in (b"x", b"g", b"L", b"K")
            length = header.size if extension or more.size is None else more.size
            padded = -(-length // BLOCK) * BLOCK
            if length > size - stream.offset:
                raise _BadHeader(
                    f"a member of {length} bytes begins, of which {size - stream.offset} are there"
                )
            if extension:
                if length > _MAX_EXTENSION_BYTES:
                    raise _BadHeader(f"a name of {length} bytes")
                content = stream.read(padded)[:length]
                if header.kind == b"x":
                    more = _extended(content, more)
                elif header.kind == b"L":
                    more = dataclasses.replace(more, name=content.rstrip(b"\0"))
                continue
        except _BadHeader as error:
            stray = (
                len(block) == BLOCK and block != _ZEROS and not block.startswith(_MAGIC, _MAGIC_AT)
            )
            yield Damage(begin, str(error), stray)
            more = _More()
            if stream.offset == begin + len(block):  # the next header may begin inside of it
                stream.put_back(block[1:])
            if not _find_header(stream):
                return
            continue
        name = header.name if more.name is None else more.name
        regular = header.kind in _REGULAR and not name.endswith(b"/") and not more.sparse
        more, content = _More(), None
        if regular and length <= MAX_BYTES:
            content = stream.read(length)
            stream.skip(padded - length)
        elif header.kind not in (b"1", b"2", b"3", b"4", b"5", b"6"):  # these have no bytes
            stream.skip(padded)
        text = name.decode("utf-8", "backslashreplace").removeprefix("./")
        yield Member(text, regular, length, content)


def _check_beginning(block: bytes) -> None:
    """Raise _BadHeader where a file is none of ours from its beginning on."""
    if not block:
        raise _BadHeader("the file is empty")
    for name, magic in _COMPRESSED.items():
        if block.startswith(magic):
            raise _BadHeader(f"compressed with {name}, which is not read; unpack it to a plain tar")


def _read_end(stream: _Stream, begin: int) -> None:
    """Read to the end of the file; raise _BadHeader if there is more than zeros, or too few."""
    length = BLOCK
    while data := stream.read(_CHUNK):
        if data.strip(b"\0"):
            stream.put_back(data)
            raise _BadHeader("zeros, as at the end, and more after them")
        length += len(data)
    if length < _END_MARKER_BYTES:
        raise _BadHeader(f"the {length} bytes from there on are not an end marker")


def _find_header(stream: _Stream) -> bool:
    """Go on to the next header; return whether there is one."""
    data = b""
    while more := stream.read(_CHUNK):
        data += more
        at = data.find(_MAGIC)
        while at >= 0:
            begin = at - _MAGIC_AT
            if begin >= 0 and begin + BLOCK > len(data):
                break  # not read yet
            versioned = data.startswith((b"ustar\x0000", b"ustar  \0"), at)
            if begin >= 0 and versioned and _is_header(data[begin : begin + BLOCK]):
                stream.put_back(data[begin:])
                return True
            at = data.find(_MAGIC, at + 1)
        data = data[-(BLOCK + len(_MAGIC)) :]
    return False


def _is_header(block: bytes) -> bool:
    try:
        _parse(block)
    except _BadHeader:
        return False
    return True


def _parse(block: bytes) -> _Header:
    """Read a header; raise _BadHeader where it is none."""
    if len(block) < BLOCK:
        raise _BadHeader(f"the {len(block)} bytes from there on are not an end marker")
    checksum, rest = _number(block[148:156]), block[:148] + 8 * b" " + block[156:]
    signed = 256 * sum(1 for byte in rest if byte > 127)  # what some writers took off
    if checksum not in (sum(rest), sum(rest) - signed):
        raise _BadHeader("a header whose checksum is wrong")
    size, name = _number(block[124:136]), block[:100].partition(b"\0")[0]
    if block[_MAGIC_AT:263] == b"ustar\0":
        prefix = block[345:500].partition(b"\0")[0]
        name = prefix + b"/" + name if prefix else name
    return _Header(name, size, block[156:157])


def _number(field: bytes) -> int:
    """Read an octal number, or one of 256 signs as GNU writes large ones."""
    if field[0] == 0x80:
        return int.from_bytes(field[1:], "big")
    digits = field.partition(b"\0")[0].strip()
    if digits.strip(b"01234567"):
        raise _BadHeader("a header that holds no number where one must be")
    return int(digits or b"0", 8)


def _extended(content: bytes, more: _More) -> _More:
    """Read a pax header, made of lines `LENGTH KEY=VALUE`."""
    at = 0
    while at < len(content):
        space = content.find(b" ", at, at + 8)
        count = content[at:space] if space > at else b""
        if not (count.isdigit() and len(count) < int(count) <= len(content) - at):
            raise _BadHeader("a pax header that is no list of values")
        end = at + int(count)
        key, _, value = content[space + 1 : end].removesuffix(b"\n").partition(b"=")
        if key == b"path" and not more.sparse:
            more = dataclasses.replace(more, name=value)
        elif key == b"size":
            if not value.isdigit() or len(value) > 20:
                raise _BadHeader("a pax header whose size is no number")
            more = dataclasses.replace(more, size=int(value))
        elif key.startswith(b"GNU.sparse."):
            name = value if key == b"GNU.sparse.name" else more.name
            more = dataclasses.replace(more, name=name, sparse=True)
        at = end
    return more
