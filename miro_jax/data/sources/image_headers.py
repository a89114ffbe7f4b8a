"""What the headers of encoded images say that decoders find out too late, or not at all.

None of these functions raises an error for any bytes: what cannot be read is as if it were not
there, for the decoder then says what is wrong.

Source: ITU-T T.81 (JPEG markers), CIPA DC-008 (EXIF), RFC 9649 (WebP).
"""

import re
import struct

_ORIENTATION, _SHORT, _LONG = 0x0112, 3, 4  # a tag and types of TIFF
_XMP = b"http://ns.adobe.com/xap/1.0/\0"
_XMP_ORIENTATION = re.compile(rb"tiff:Orientation(?:=\"|>)([0-9])")
_START_OF_SCAN, _END = 0xDA, 0xD9
_WITHOUT_LENGTH = (0x01, *range(0xD0, 0xD9))
# Inside of a scan 0xff is followed by zero, by a restart marker, or by more 0xff.
_MARKER_IN_SCAN = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
_MANY = 30


def jpeg_orientation(data: bytes) -> int:
    """Return how a JPEG is to be turned by its EXIF, else by its XMP: 1 (not at all) to 8."""
    exif = xmp = None
    at = 2
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        marker = data[at + 1]
        if marker == 0xFF:  # filling
            at += 1
            continue
        if marker in (_START_OF_SCAN, _END):
            break
        (length,) = struct.unpack_from(">H", data, at + 2)
        if marker == 0xE1 and data.startswith(b"Exif\0\0", at + 4):
            exif = exif or _tiff_orientation(data[at + 10 : at + 2 + length])
        elif marker == 0xE1 and data.startswith(_XMP, at + 4):
            found = _XMP_ORIENTATION.search(data, at + 4, at + 2 + length)
            xmp = xmp or (found and int(found[1]))
        at += 2 + length
    value = xmp if exif is None else exif
    return value if value is not None and 1 <= value <= 8 else 1


def _tiff_orientation(tiff: bytes) -> int | None:
    """Return the value of the entry, None where there is none."""
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2])
    if order is None:
        return None
    try:
        (at,) = struct.unpack_from(order + "I", tiff, 4)
        (count,) = struct.unpack_from(order + "H", tiff, at)
        for entry in range(at + 2, at + 2 + 12 * count, 12):
            tag, kind = struct.unpack_from(order + "HH", tiff, entry)
            if tag == _ORIENTATION:
                form = {_SHORT: "H", _LONG: "I"}.get(kind)
                return struct.unpack_from(order + form, tiff, entry + 8)[0] if form else None
    except struct.error:
        pass
    return None


def count_scans(data: bytes) -> int:
    """Return the scans of a JPEG, exactly if they are many: a progressive one has about ten."""
    most = data.count(b"\xff\xda")
    if most <= _MANY:
        return most
    at, scans = 2, 0
    while data[at : at + 1] == b"\xff" and at + 4 <= len(data):
        marker = data[at + 1]
        if marker == _END:
            break
        length = 0 if marker in _WITHOUT_LENGTH else struct.unpack_from(">H", data, at + 2)[0]
        at += 2 + length
        if marker == _START_OF_SCAN:
            scans += 1
            found = _MARKER_IN_SCAN.search(data, at)
            if found is None:
                break
            at = found.start()
    return scans


def webp_size(data: bytes) -> tuple[int, int] | None:
    """Return (width, height) of a WebP's canvas; decoders set memory aside before they tell."""
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
