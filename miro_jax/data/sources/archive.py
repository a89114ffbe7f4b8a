"""Tar archives read forwards, through damage: every member that can be read, and every flaw.

An archive is a row of blocks of 512 bytes: a header, the member's bytes filled up with zeros, the
next header, ..., and at the end at least two blocks of zeros. `tarfile` stops without a word at a
header that does not add up and at a cut between members. Here such damage is reported, and reading
goes on at the next header, found by the word `ustar` that all archives of the last decades hold and
proven by its checksum; so bytes that are lost or inserted shift nothing.

Source: POSIX.1-2017, pax, "ustar Interchange Format"; GNU tar manual, "Basic Tar Format".
"""

import dataclasses
import tarfile
from collections.abc import Iterator
from typing import BinaryIO

from miro_jax.data.sources.foreign import name_foreign
from miro_jax.data.sources.images import MAX_BYTES

BLOCK = 512
_END_MARKER_BYTES = 2 * BLOCK
_MAGIC, _MAGIC_AT = b"ustar", 257
_MAX_EXTENSION_BYTES = 1 << 20  # of a header that only carries a long name
_CHUNK = 1 << 20
_REGULAR = (b"0", b"\0", b"7")
_ZEROS = bytes(BLOCK)


@dataclasses.dataclass(frozen=True)
class Member:
    """A member. name: as text. size: bytes it claims.

    content: None where it is no regular file, or one of more than MAX_BYTES.
    """

    name: str
    regular: bool
    size: int
    content: bytes | None


@dataclasses.dataclass(frozen=True)
class Damage:
    """A byte where the archive is not what it must be.

    stray: nothing there looks like a header, so that bytes may have been lost or inserted before
    it, and the member that ends there may hold others than its own.
    """

    offset: int
    reason: str
    stray: bool = False


class _BadHeader(ValueError):
    """A block that is no header."""


class _Stream:
    """A file read forwards, into which bytes can be put back.

    offset: of the next byte. begin, block: of the last header block.
    """

    def __init__(self, file: BinaryIO, size: int):
        self._file, self.size = file, size
        self._back, self._at, self.offset = b"", 0, 0
        self.begin, self.block = 0, b""

    def read(self, length: int) -> bytes:
        """Return the next bytes, fewer at the end only."""
        parts = [self._back[self._at : self._at + length]]
        self._at += len(parts[0])
        wanted = length - len(parts[0])
        while wanted > 0 and (part := self._file.read(wanted)):
            parts.append(part)
            wanted -= len(part)
        data = b"".join(parts)
        self.offset += len(data)
        return data

    def read_block(self) -> bytes:
        """Return the next block, remembered as that of a header."""
        self.begin = self.offset
        self.block = self.read(BLOCK)
        return self.block

    def put_back(self, data: bytes) -> None:
        """Make `data` what is read next."""
        self._back, self._at = data + self._back[self._at :], 0
        self.offset -= len(data)

    def skip(self, length: int) -> None:
        """Pass over bytes, or to the end."""
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
    stream = _Stream(file, size)
    while True:
        try:
            member = _read_member(stream)
        except _BadHeader as error:
            block = stream.block
            whole = len(block) == BLOCK and block != _ZEROS
            stray = whole and not block.startswith(_MAGIC, _MAGIC_AT)
            yield Damage(stream.begin, str(error), stray)
            if stream.offset == stream.begin + len(block):  # the next header may begin inside of it
                stream.put_back(block[1:])
            if not _find_header(stream):
                return
            continue
        if member is None:
            return
        yield member


def _read_member(stream: _Stream) -> Member | None:
    """Read the headers of a member and its content; None at the end of the archive."""
    more: dict[bytes, bytes] = {}  # what headers before the member's own say of it
    while True:
        block = stream.read_block()
        if block == _ZEROS:
            _read_end(stream)
            return None
        if stream.begin == 0:
            _check_beginning(block)
        name, length, kind = _parse(block)
        if kind == b"S":  # more of its map stands between the header and the bytes
            more[b"GNU.sparse."] = b""
            more_of_map, at = block, 482
            while len(more_of_map) == BLOCK and more_of_map[at]:
                more_of_map, at = stream.read(BLOCK), 504
        is_extension = kind in (b"x", b"X", b"g", b"L", b"K")
        if not is_extension:
            length = int(more.get(b"size", length))
        padded = -(-length // BLOCK) * BLOCK
        if length > (there := stream.size - stream.offset):
            raise _BadHeader(f"a member of {length} bytes begins, of which {there} are there")
        if not is_extension:
            break
        if length > _MAX_EXTENSION_BYTES:
            raise _BadHeader(f"a name of {length} bytes")
        content = stream.read(padded)[:length]
        if kind in (b"x", b"X"):  # Solaris wrote capitals
            more |= _extended(content)
        elif kind == b"L":
            more[b"path"] = content.rstrip(b"\0")
    name = more.get(b"GNU.sparse.name", more.get(b"path", name))
    is_sparse = any(key.startswith(b"GNU.sparse.") for key in more)
    regular = kind in _REGULAR and not name.endswith(b"/") and not is_sparse
    content = None
    if regular and length <= MAX_BYTES:
        content = stream.read(length)
        stream.skip(padded - length)
    elif kind not in (b"1", b"2", b"3", b"4", b"5", b"6"):  # these have no bytes
        stream.skip(padded)
    text = name.decode("utf-8", "backslashreplace").removeprefix("./")
    return Member(text, regular, length, content)


def _check_beginning(block: bytes) -> None:
    """Raise _BadHeader where a file is none of ours from its beginning on."""
    if not block:
        raise _BadHeader("the file is empty")
    if other := name_foreign(block):
        raise _BadHeader(f"the file is {other}")


def _read_end(stream: _Stream) -> None:
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
    """Move to the next header; return whether there is one."""
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


def _parse(block: bytes) -> tuple[bytes, int, bytes]:
    """Return the name, the size and the kind that a header gives."""
    if len(block) < BLOCK:
        raise _BadHeader(f"the {len(block)} bytes from there on are not an end marker")
    try:
        header = tarfile.TarInfo.frombuf(block, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        wrong = "whose checksum is wrong" if "checksum" in str(error) else "that holds no number"
        raise _BadHeader(f"a header {wrong}") from error
    if header.size < 0:
        raise _BadHeader("a header whose size is negative")
    name = block[:100].partition(b"\0")[0]
    if block[_MAGIC_AT:263] == b"ustar\0" and (prefix := block[345:500].partition(b"\0")[0]):
        name = prefix + b"/" + name  # GNU's own headers have other things there
    return name, header.size, block[156:157]


def _extended(content: bytes) -> dict[bytes, bytes]:
    """Read a pax header, made of lines `LENGTH KEY=VALUE`."""
    values, at = {}, 0
    while at < len(content):
        space = content.find(b" ", at, at + 8)
        count = content[at:space] if space > at else b""
        if not (count.isdigit() and len(count) < int(count) <= len(content) - at):
            raise _BadHeader("a pax header that is no list of values")
        end = at + int(count)
        key, _, value = content[space + 1 : end].removesuffix(b"\n").partition(b"=")
        values[key] = value
        at = end
    if not (size := values.get(b"size", b"0")).isdigit() or len(size) > 20:
        raise _BadHeader("a pax header whose size is no number")
    return values
