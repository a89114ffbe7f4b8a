"""Bad data of every kind that we could think of: pictures, texts, and members of archives."""

import random
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

from miro_jax.data.sources import texts
from tests.forged import chunk, jpeg_claiming, jpeg_of_scans, picture, png, webp_claiming
from tests.sources import encode

DAMAGED, NONE, LARGE, SMALL = "damaged image", "not an image", "too large", "too small"


def flipped(data: bytes, share: float, count: int = 40) -> bytes:
    """Overwrite some bytes at a share of the length."""
    at = int(len(data) * share)
    return data[:at] + b"\xff\x01" * (count // 2) + data[at + count :]


def bad_pictures() -> dict[str, tuple[bytes, str]]:
    """Name -> (file, cause); those that must decode have no cause."""
    rgb = Image.fromarray(picture())
    names = ("JPEG", "PNG", "WEBP", "GIF", "TIFF", "BMP", "AVIF", "JPEG2000")
    jpeg, png_, webp, gif, tiff, bmp, avif, j2k = (encode(picture(), name) for name in names)
    exif = Image.Exif()
    exif[0x0112] = 6
    alpha = rgb.convert("RGBA")
    alpha.putalpha(Image.fromarray(picture()[..., 0]))
    wide = Image.fromarray(picture()[..., 0].astype(np.uint16) * 257)
    frames = {"save_all": True, "append_images": [rgb.rotate(90), rgb.rotate(180)]}
    bomb = chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 27), 9))
    profile = chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 26), 9))
    rows = b"".join(b"\0" + bytes(row) for row in picture())
    return {
        "a zero byte": (b"\0", NONE),
        "html": (b"<!DOCTYPE html><title>404</title>" * 20, NONE),
        "json": (b'{"error": "gone"}', NONE),
        "random": (random.Random(0).randbytes(9000), NONE),
        "zeros": (bytes(9000), NONE),
        "svg": (b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>', NONE),
        "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 99 99\n", NONE),
        "pdf": (b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n" * 9, NONE),
        "zip": (b"PK\3\4" + bytes(400), NONE),
        "gzip": (b"\x1f\x8b\x08" + bytes(400), NONE),
        "video": (b"\0\0\0 ftypisom" + bytes(400), NONE),
        "icon of nothing": (b"\0\0\1\0\1\0\x10\x10" + bytes(400), DAMAGED),
        "photoshop": (b"8BPS\0\1" + bytes(400), NONE),
        "text": (b"picture", NONE),
        "jpeg start": (jpeg[:3], DAMAGED),
        "jpeg cut in the header": (jpeg[:200], DAMAGED),
        "jpeg cut in the scan": (jpeg[: len(jpeg) * 2 // 3], DAMAGED),
        "jpeg without its end": (jpeg[:-40], DAMAGED),
        "jpeg with a damaged scan": (flipped(jpeg, 0.7), DAMAGED),
        "jpeg with damaged tables": (flipped(jpeg, 0.15, 20), DAMAGED),
        "jpeg with exif, cut": (encode(picture(), "JPEG", exif=exif)[:-40], DAMAGED),
        "jpeg progressive, cut": (encode(picture(), "JPEG", progressive=True)[:-60], DAMAGED),
        "jpeg cmyk, cut": (encode(rgb.convert("CMYK"), "JPEG")[:900], DAMAGED),
        "jpeg of one pixel": (encode(picture(1, 1), "JPEG"), SMALL),
        "jpeg claiming 60000": (jpeg_claiming(60000, 60000), LARGE),
        "jpeg claiming 7000": (jpeg_claiming(7000, 7000), LARGE),
        "jpeg claiming no height": (jpeg_claiming(72, 0), DAMAGED),
        "jpeg of a thousand scans": (jpeg_of_scans(1000), LARGE),
        "jpeg of 65 megabytes": (jpeg + bytes(65 << 20), LARGE),
        "png start": (png_[:8], NONE),
        "png cut": (png_[: len(png_) // 2], DAMAGED),
        "png with a flipped byte": (flipped(png_, 0.5, 2), DAMAGED),
        "png of 15 x 99": (encode(picture(99, 15), "PNG"), SMALL),
        "png of no size": (png(0, 0, 8, 2, b""), NONE),
        "png bomb of 100 megapixels": (png(10000, 10000, 8, 2, bytes(9)), LARGE),
        "png bomb of 4 gigapixels": (png(65500, 65500, 1, 0, bytes(9)), LARGE),
        "png bomb of 2 x 2**31": (png(2, 2**31 - 1, 8, 2, bytes(9)), LARGE),
        "png bomb of little bytes": (png(7000, 7000, 1, 0, bytes(7000 * 876)), LARGE),
        "png with too few rows": (png(300, 300, 8, 2, bytes(1000)), DAMAGED),
        "png with a text bomb": (png(72, 64, 8, 2, rows, bomb), ""),  # never unpacked
        "png of unknown colour": (png(72, 64, 8, 5, rows), NONE),
        "webp cut": (webp[: len(webp) // 2], DAMAGED),
        "webp of nothing": (b"RIFF\4\0\0\0WEBP", NONE),
        "webp claiming 16383": (webp_claiming(16383, 16383), LARGE),
        "webp claiming 7000": (webp_claiming(7000, 7000), LARGE),
        "gif cut": (gif[: len(gif) // 2], DAMAGED),
        "gif of 65535": (gif[:6] + b"\xff\xff\xff\xff" + gif[10:], LARGE),
        "tiff cut": (tiff[: len(tiff) // 2], DAMAGED),
        "tiff of floats": (encode(Image.fromarray(np.zeros((32, 32), np.float32)), "TIFF"), NONE),
        "bmp cut": (bmp[: len(bmp) // 2], DAMAGED),
        "bmp of huge size": (bmp[:18] + struct.pack("<ii", 60000, 60000) + bmp[26:], LARGE),
        "avif cut": (avif[: len(avif) * 2 // 3], DAMAGED),
        "jpeg 2000 cut": (j2k[: len(j2k) // 8], DAMAGED),
        "png in a wrong name": (png_, ""),
        "progressive": (encode(picture(), "JPEG", progressive=True), ""),
        "grey jpeg": (encode(rgb.convert("L"), "JPEG"), ""),
        "cmyk jpeg": (encode(rgb.convert("CMYK"), "JPEG"), ""),
        "jpeg with exif": (encode(picture(), "JPEG", exif=exif), ""),
        "jpeg and more behind its end": (jpeg + b"junk" * 99, ""),
        "grey of 16 bits": (encode(wide, "PNG"), ""),
        "palette": (encode(rgb.quantize(32), "PNG"), ""),
        "one bit": (encode(rgb.convert("1"), "PNG"), ""),
        "alpha": (encode(alpha, "PNG"), ""),
        "grey with alpha": (encode(alpha.convert("LA"), "PNG"), ""),
        "png with a profile bomb": (png(72, 64, 8, 2, rows, profile), ""),
        "webp": (webp, ""),
        "webp with alpha": (encode(alpha, "WEBP", lossless=True), ""),
        "animated gif": (encode(rgb, "GIF", **frames), ""),
        "animated webp": (encode(rgb, "WEBP", **frames), ""),
        "animated png": (encode(rgb, "PNG", **frames), ""),
        "avif": (avif, ""),
        "tiff": (tiff, ""),
        "bmp": (bmp, ""),
        "jpeg 2000": (j2k, ""),
    }


def bad_texts() -> dict[str, tuple[bytes | None, bytes | None, str]]:
    """Name -> (txt, json, cause)."""
    long = b"x" * (texts.MAX_CAPTION_CHARACTERS + 1)
    return {
        "no caption": (None, b"{}", "missing caption"),
        "empty caption": (b"", None, "missing caption"),
        "blank caption": (b" \r\n\t\xe3\x80\x80", b"{}", "missing caption"),
        "a placeholder alone": (b" <PERSON> <PERSON>", b"{}", "missing caption"),
        "latin-1": (b"caf\xe9", b"{}", "unreadable caption"),
        "utf-16": ("text".encode("utf-16"), b"{}", "unreadable caption"),
        "utf-16 without a mark": ("text".encode("utf-16-le"), b"{}", "unreadable caption"),
        "cut inside of a letter": ("日本".encode()[:-1], None, "unreadable caption"),
        "half a pair in json": (None, b'{"caption": "\\ud83d"}', "unreadable caption"),
        "a novel": (long, b"{}", "caption too long"),
        "megabytes": (b"x" * (2 << 20), b"{}", "caption too long"),
        "a synthetic novel": (b"x", b'{"synthetic_caption": "%s"}' % long, "caption too long"),
        "broken json": (b"x", b'{"a": ', "unreadable json"),
        "empty json": (b"x", b"", "unreadable json"),
        "json list": (b"x", b"[1]", "unreadable json"),
        "deep json": (b"x", b"[" * 99999, "unreadable json"),
        "json with a huge number": (b"x", b'{"a": ' + b"9" * 9999 + b"}", "unreadable json"),
        "json of binary": (b"x", random.Random(1).randbytes(99), "unreadable json"),
        "caption of another type": (None, b'{"caption": 7}', "missing caption"),
        "byte order mark": (b"\xef\xbb\xbfcaption", b"{}", ""),
        "emoji": ("\U0001f98a in snow".encode(), b'{"caption": null}', ""),
        "control characters": (b"a\x07\x1b[31m b", b"{}", ""),
        "nan in json": (b"x", b'{"a": NaN}', ""),
    }


def block(name: str, size: int, kind: bytes = b"0", field: bytes | None = None) -> bytes:
    """The header of a member; `field` stands in place of its size."""
    header = bytearray(512)
    header[: len(name.encode())] = name.encode()
    header[100:108] = b"0000644\0"
    header[124:136] = (b"%011o\0" % size if field is None else field).ljust(12, b"\0")
    header[136:148] = b"%011o\0" % 0
    header[148:156] = b" " * 8
    header[156:157] = kind
    header[157:168] = b"/etc/passwd"
    header[257:265] = b"ustar\00000"
    header[148:156] = b"%06o\0 " % sum(header)
    return bytes(header)


def member(name: str, content: bytes, kind: bytes = b"0") -> bytes:
    """A member with its header, filled up to blocks."""
    return block(name, len(content), kind) + content + bytes(-len(content) % 512)


def sample(key: str, image: bytes | None, txt: bytes | None, meta: bytes | None) -> bytes:
    """The members of a sample."""
    parts = ((".jpg", image), (".txt", txt), (".json", meta))
    return b"".join(member(key + end, data) for end, data in parts if data is not None)


def structures(key: str) -> dict[str, tuple[bytes, dict[str, str], int]]:
    """Name -> (bytes of the archive, cause by key, places of damage)."""
    good = encode(picture(), "JPEG")
    txt, meta = member(f"{key}.txt", b"caption"), member(f"{key}.json", b"{}")
    whole = sample(key, good, b"caption", b"{}")
    torn = bytearray(whole)
    torn[3] ^= 1
    middle = bytearray(whole)
    middle[whole.index(txt) + 130] ^= 1
    cut = "cut short by damage"
    junk, before = random.Random(2).randbytes(700), sample(f"{key}a", good, b"caption", b"{}")

    def instead(header: bytes) -> tuple[bytes, dict[str, str], int]:
        return header + bytes(1024) + txt + meta, {key: cut}, 1

    return {
        "no picture": (txt + meta, {key: "missing image"}, 0),
        "0-byte picture": (member(f"{key}.jpg", b"") + txt + meta, {key: "empty file"}, 0),
        "link": (block(f"{key}.jpg", 0, b"2") + txt + meta, {key: "not a file"}, 0),
        "hard link": (block(f"{key}.jpg", 0, b"1") + txt + meta, {key: "not a file"}, 0),
        "device": (block(f"{key}.jpg", 0, b"3") + txt + meta, {key: "not a file"}, 0),
        "pipe": (block(f"{key}.jpg", 0, b"6") + txt + meta, {key: "not a file"}, 0),
        "folder": (block(f"{key}.jpg/", 0, b"5") + txt + meta, {key: "missing image"}, 0),
        "unknown type": (member(f"{key}.jpg", good, b"Z") + txt + meta, {key: "not a file"}, 0),
        "unknown ending": (member(f"{key}.heic", good) + txt + meta, {key: "missing image"}, 0),
        "damaged first header": (bytes(torn), {key: cut}, 1),
        "damaged middle header": (bytes(middle), {key: cut}, 1),
        "size of 8 gigabytes": instead(block(f"{key}.jpg", 8**11 - 1)),
        "size of 2**88": instead(block(f"{key}.jpg", 0, field=b"\x80" + b"\xff" * 11)),
        "size below zero": instead(block(f"{key}.jpg", 0, field=b"\xff" * 12)),
        "size of letters": instead(block(f"{key}.jpg", 0, field=b"0000x000000")),
        "zeros before it": (bytes(1024) + whole, {key: ""}, 1),
        # What ends where bytes slipped in may have lost its own.
        "junk between": (before + junk + whole, {f"{key}a": cut, key: ""}, 1),
        "long name of junk": (member("x", b"\xff" * 90, b"x") + whole, {key: ""}, 1),
        "endless long name": (block("x", 2 << 20, b"L") + whole, {key: ""}, 1),
        "sparse": (
            member("x", b"25 GNU.sparse.size=99999\n", b"x") + whole,
            {key: "not a file"},
            0,
        ),
        "name with a way out": (sample(f"../../{key}", good, b"c", b"{}"), {f"../../{key}": ""}, 0),
        "absolute name": (sample(f"/{key}", good, b"c", b"{}"), {f"/{key}": ""}, 0),
        "hidden file": (member(f"._{key}.jpg", b"junk") + whole, {key: ""}, 0),
        "tar inside": (member(f"{key}.tar", whole) + whole, {key: ""}, 0),
    }


def write_corpus(folder: Path) -> tuple[dict[str, str], int]:
    """Write FOLDER/hostile.tar.

    Returns:
        cause by key, "" for the good ones; how many places of damage are to be listed.
    """
    good = encode(picture(), "JPEG")
    parts, expected, damage, number = [], {}, 0, 0

    def add(data: bytes, causes: dict[str, str]) -> None:
        nonlocal number
        key = f"good{number:03d}"
        number += 1
        parts.extend([data, sample(key, good, f"caption {key}".encode(), b"{}")])
        expected.update({f"hostile.tar/{k}": cause for k, cause in {**causes, key: ""}.items()})

    add(b"", {})
    for i, (image, cause) in enumerate(bad_pictures().values()):
        add(sample(f"image{i:03d}", image, b"caption", b"{}"), {f"image{i:03d}": cause})
    for i, (txt, meta, cause) in enumerate(bad_texts().values()):
        add(sample(f"text{i:03d}", good, txt, meta), {f"text{i:03d}": cause})
    for i in range(len(structures(""))):
        data, causes, count = list(structures(f"structure{i:03d}").values())[i]
        damage += count
        add(data, causes)
    parts.append(sample("good000", good, b"again", b"{}"))  # listed apart, by `read_corpus`
    parts.append(member("last.jpg", good)[:900])
    (folder / "hostile.tar").write_bytes(b"".join(parts))
    return expected, damage + 1
