"""What stands where a data file should be: pointers of Git LFS, web pages, packed files."""

LFS = b"version https://git-lfs.github.com/"
_OLD_LFS = b"version https://hawser.github.com/"  # its name before version 1
# How a file begins -> what it is and what to do.
_BEGINNINGS = {
    LFS: "a Git LFS pointer, not the file; run `git lfs pull`",
    _OLD_LFS: "a Git LFS pointer, not the file; run `git lfs pull`",
    b"\x1f\x8b": "compressed with gzip, which is not read; unpack it",
    b"BZh": "compressed with bzip2, which is not read; unpack it",
    b"\xfd7zXZ\0": "compressed with xz, which is not read; unpack it",
    b"\x28\xb5\x2f\xfd": "compressed with zstd, which is not read; unpack it",
    b"PK\x03\x04": "a zip archive, which is not read; unpack it",
    b"PARE": "an encrypted parquet file, which is not read; decrypt it",
    b"PAR1": "a parquet file",
    b"ARROW1": "an Arrow file; save it as parquet",
    b"\xff\xff\xff\xff": "an Arrow stream; save it as parquet",
    b"<!doctype html": "a web page",
    b"<html": "a web page",
    b"<?xml": "XML",
}
LONGEST = max(map(len, _BEGINNINGS))


def name_foreign(head: bytes) -> str:
    """Return what a file that begins like this is, of the kinds above; or ""."""
    head = head[: 2 * LONGEST].removeprefix(b"\xef\xbb\xbf").lstrip()
    plain = head.lower() if head[:1] == b"<" else head
    return next((text for start, text in _BEGINNINGS.items() if plain.startswith(start)), "")
