"""What the headers of encoded images say that decoders find out too late, or not at all.

`mend` takes harmless oddities out of a file, so that a strict decoder can prove the rest: every
viewer reads over them, and nothing of the pixels depends on them. None of these functions but
`check_rows` and `icon_image` raises an error for any bytes: what cannot be read stays as it is, for
the decoder then says what is wrong.

Source: ITU-T T.81 (JPEG markers), PNG third edition (chunks), RFC 9649 (WebP).
"""

import itertools
import re
import struct
import zlib
from collections.abc import Iterator

from PIL import Image

_ORIENTATION = 0x0112  # a tag of TIFF
_START_OF_SCAN, _END = 0xDA, 0xD9
_SEQUENTIAL, _PROGRESSIVE, _JFIF, _APP1, _ADOBE = (0xC0, 0xC1), 0xC2, 0xE0, 0xE1, 0xEE
_END_OF_IMAGE = b"\xff\xd9"
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_WHOLE_SPECTRUM = b"\0\x3f\0"  # what the header of a sequential scan must end with
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))
_JPEG_NOTES = (*range(0xE2, 0xEE), 0xEF, 0xFE)  # profiles and comments: nothing of the pixels
_MARKER = re.compile(rb"\xff[^\x00\xff]")
# Inside of a scan 0xff is followed by zero, by a restart marker, or by more 0xff.
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MANY = 30
_MOST_PARTS = 100_000  # segments or chunks that are looked at; large images have 8,000
PNG_START = b"\x89PNG\r\n\x1a\n"
_PNG_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # by the type of colours in the header
# Of the passes of an interlaced PNG: first column and row, distance of columns and of rows.
_ADAM7 = (
    *((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)),
    (0, 1, 1, 2),
)
_ICO_START = b"\0\0\1\0"
_UNREAD = {b"8BPS": "a Photoshop file", b"\xff\x0a": "JPEG XL", b"\0\0\0\x0cJXL ": "JPEG XL"}
_UNREAD |= {b"qoif": "QOI", b"<svg": "SVG", b"DDS ": "DDS", b"icns": "ICNS", b"P7\n": "PAM"}
_UNREAD |= {b"\x76\x2f\x31\x01": "OpenEXR", b"#?RADIANCE": "HDR", b"%PDF": "PDF", b"%!PS": "EPS"}
_BYTES_AT_A_TIME = 1 << 20
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")  # chunks that pixels depend on


def orientation(image: Image.Image) -> int:
    """Return how an image is to be turned by its EXIF, else by its XMP: 1 (not at all) to 8."""
    try:
        value = image.getexif().get(_ORIENTATION, 1)
    except Exception:  # Pillow raises anything for EXIF that is none
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def jpeg_orientation(data: bytes) -> int:
    """Return the `orientation` of a JPEG; Pillow would look at each byte of filling."""
    image = Image.new("L", (1, 1))
    for number, (marker, at, end) in enumerate(_segments(data)):
        if marker == _START_OF_SCAN or number > _MOST_PARTS:
            break
        if marker == _APP1 and data.startswith(b"Exif\0\0", at + 4):
            image.info.setdefault("exif", data[at + 4 : end])
        elif marker == _APP1 and data.startswith(_XMP, at + 4):
            image.info.setdefault("xmp", data[at + 4 + len(_XMP) : end])
    return orientation(image) if image.info else 1


def _segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Yield (marker, its byte, the end of its segment) of a JPEG, up to its end marker."""
    at = 2
    while (match := _MARKER.search(data, at)) and (marker := data[match.start() + 1]) != _END:
        at = end = match.start()
        end += 2
        if marker not in _WITHOUT_LENGTH and end + 2 <= len(data):
            end += struct.unpack_from(">H", data, end)[0]
        yield marker, at, end
        at = end
        if marker == _START_OF_SCAN:
            if (match := _MARKER_IN_SCAN.search(data, end)) is None:
                return
            at = match.start()


def count_scans(data: bytes) -> int:
    """Return the scans of a JPEG, exactly if they are many: a progressive one has about ten."""
    most = data.count(b"\xff\xda")
    return most if most <= _MANY else sum(m == _START_OF_SCAN for m, _, _ in _segments(data))


def mend(data: bytes) -> bytes:
    """Return a JPEG or a PNG without harmless oddities; the same bytes where it has none.

    Of a JPEG: a sequential scan whose header names no whole spectrum, revisions of JFIF and colour
    transforms of Adobe that nobody knows, profiles and comments, bytes between segments, zeros
    before the end; and an end that is missing is added where nothing but the end can be missing,
    see `_has_all_scans`. Of a PNG: all chunks but those of the pixels and sound EXIF, so that their
    checksums, sizes and contents do not matter.
    """
    return _mend_png(data) if data.startswith(PNG_START) else _mend_jpeg(data)


def _mend_jpeg(data: bytes) -> bytes:
    mended, header, scan, sequential, end = bytearray(data), bytearray(data[:2]), 0, False, 2
    for number, (marker, at, end) in enumerate(_segments(data)):
        if number > _MOST_PARTS:
            return data
        sequential |= marker in _SEQUENTIAL
        if marker == _JFIF and data.startswith(b"JFIF\0", at + 4) and end > at + 9:
            mended[at + 9] = 1
        elif marker == _ADOBE and data.startswith(b"Adobe", at + 4) and end > at + 15:
            mended[at + 15] = data[at + 15] if data[at + 15] <= 2 else 1
        elif marker == _START_OF_SCAN and sequential and 9 < end - at < len(data) - at:
            mended[end - 3 : end] = _WHOLE_SPECTRUM
        scan = scan or (at if marker == _START_OF_SCAN else 0)
        if not scan and marker not in _JPEG_NOTES:
            header += mended[at:end]
    match = _MARKER_IN_SCAN.search(data, end) if scan else None
    if match is None and not _has_all_scans(data):
        return data
    stop = match.start() if match else len(data) - data.endswith(b"\xff")
    scans = mended[scan:stop].rstrip(b"\0")  # zeros before the end
    scans += b"\0" if scans.endswith(b"\xff") else b""  # one of them belongs to the scan
    return bytes(header + scans + (mended[stop:] if match else _END_OF_IMAGE))


def _has_all_scans(data: bytes) -> bool:
    """Return whether the scans of a JPEG bring each coefficient of each component to its last bit.

    A strict decoder then finds out whether the last of them is whole. Images of four components are
    left out: they take another decoder, which is none.
    """
    shifts: dict[int, list[int]] = {}  # component -> how many bits each coefficient still lacks
    sequential = False
    for number, (marker, at, end) in enumerate(_segments(data)):
        body = data[at + 4 : end]
        if number > _MOST_PARTS or len(body) < end - at - 4:
            return False
        if marker in (*_SEQUENTIAL, _PROGRESSIVE) and len(body) >= 6:
            sequential = marker in _SEQUENTIAL
            shifts = {component: [8] * 64 for component in body[6::3]}
        elif marker == _START_OF_SCAN and body and len(body) >= 4 + 2 * body[0]:
            first, last, low = body[-3], body[-2], body[-1] & 15
            first, last, low = (0, 63, 0) if sequential else (first, last, low)
            for component in body[1 : 1 + 2 * body[0] : 2]:
                shifts.get(component, [0] * 64)[first : last + 1] = [low] * (last + 1 - first)
    return len(shifts) in (1, 3) and not any(map(any, shifts.values()))


def _mend_png(data: bytes) -> bytes:
    kept = [data[:8]]
    for kind, at, end in _chunks(data):
        sound = data[end - 4 : end] == struct.pack(">I", zlib.crc32(data[at + 4 : end - 4]))
        if kind in _PNG_PIXELS or (kind == b"eXIf" and sound) or not kind[:1].islower():
            kept.append(data[at:end])
    return b"".join(kept)


def has_many_chunks(data: bytes) -> bool:
    """Return whether a file is a PNG of so many chunks that a decoder takes minutes for them."""
    chunks = itertools.islice(_chunks(data), _MOST_PARTS, None)
    return data.startswith(PNG_START) and next(chunks, None) is not None


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Yield (kind, first byte, end) of the chunks of a PNG, up to its last."""
    at, kind = 8, b""
    while at + 12 <= len(data) and kind != b"IEND":
        end = min(at + 12 + struct.unpack_from(">I", data, at)[0], len(data))
        kind = data[at + 4 : at + 8]
        yield kind, at, end
        at = end


def check_rows(data: bytes) -> None:
    """Raise ValueError where the pixels of a PNG end before its last row does; decoders do not."""
    width, height, depth, color, _, _, interlaced = struct.unpack_from(">IIBBBBB", data, 16)
    bits = depth * _PNG_CHANNELS[color]
    passes = _ADAM7 if interlaced else ((0, 0, 1, 1),)
    missing = 0
    for left, top, across, down in passes:
        columns, rows = -((left - width) // across), -((top - height) // down)
        missing += rows * (1 + (columns * bits + 7) // 8) if columns > 0 else 0
    stream = zlib.decompressobj()
    for kind, at, end in _chunks(data):
        packed = data[at + 8 : end - 4] if kind == b"IDAT" else b""
        while packed and missing > 0 and not stream.eof:
            missing -= len(stream.decompress(packed, _BYTES_AT_A_TIME))
            packed = stream.unconsumed_tail
    if missing > len(stream.flush()):  # what it still holds back
        raise ValueError(f"the last {missing} bytes of its rows are missing")


def icon_image(data: bytes) -> tuple[int, int, bytes] | None:
    """Return (width, height, file) of the image of an ICO that Pillow takes: the largest.

    The file is a PNG, or an ICO of this image alone; None where it is no ICO. Raises ValueError
    where the image is cut short.

    Source: Microsoft, "Icons" (1995); its 6 bytes are followed by 16 for each image.
    """
    if not data.startswith(_ICO_START) or len(data) < 22:
        return None
    count = min(struct.unpack_from("<H", data, 4)[0], (len(data) - 6) // 16)
    entries = [struct.unpack_from("<BBBBHHII", data, 6 + 16 * n) for n in range(count)]
    if not entries:
        return None
    best = max(entries, key=lambda e: ((e[0] or 256) * (e[1] or 256), -(e[5] or e[2] or 256)))
    *facts, size, offset = best
    file = data[offset:] if data.startswith(PNG_START, offset) else data[offset : offset + size]
    if len(file) < 24:
        raise ValueError("the image of an icon is cut short")
    if file.startswith(PNG_START):
        return *struct.unpack_from(">II", file, 16), file
    width, height = struct.unpack_from("<ii", file, 4)
    alone = _ICO_START + struct.pack("<HBBBBHHII", 1, *facts, len(file), 22) + file
    return width, height // 2, alone  # the half below says what is clear


def name_format(data: bytes) -> str:
    """Return what the bytes are, of the formats of images that are not read; else ""."""
    kind = next((name for start, name in _UNREAD.items() if data.startswith(start)), "")
    if data[4:8] == b"ftyp" and data[8:12] in (b"heic", b"heix", b"hevc", b"mif1", b"msf1"):
        kind = "HEIF"
    return f"{kind}, which is not read; save it as JPEG or PNG" if kind else ""


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) of a WebP's canvas; decoders set memory aside before they know."""
    if data[:4] != b"RIFF" or data[8:12] != b"WEBP" or len(data) < 30:
        return None
    kind = data[12:16]
    if kind == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") for at in (24, 27))
        return width + 1, height + 1
    if kind == b"VP8L":
        bits = int.from_bytes(data[21:25], "little")
        return (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    width, height = struct.unpack_from("<HH", data, 26)
    return width & 0x3FFF, height & 0x3FFF
