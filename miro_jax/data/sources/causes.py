"""Causes: the closed list of reasons why a sample, or part of a piece, cannot be used.

Every reader and decoder names one of these, so that failures can be counted. What a cause alone
does not say (a byte, a line, the limit that was passed) stands in a separate detail.
"""

UNREACHABLE = "unreachable"  # a later start of the same work tries it again
# Cause -> what it means, in one line.
CAUSES = {
    # the image's file
    "missing image": "the sample has no image, or the file that it names is not there",
    "empty file": "the image's file has no bytes",
    "not a file": "a pipe, a device or a folder stands where the image should be",
    "unreadable file": "the system refuses to open this one file: rights, a circle of links",
    "outside the source": "the sample names a file or an address that its source may not read",
    UNREACHABLE: "the server of this one image gives no answer; the same command tries it again",
    "not an image": "the bytes are of no format that is read",
    "damaged image": "the bytes begin as a known format and cannot be decoded to their end",
    "too large": "more pixels, bytes or scans than allowed; refused before decoding",
    "too small": "fewer pixels a side than allowed",
    # its texts
    "missing caption": "no caption, or nothing but white space and placeholders",
    "unreadable caption": "the caption is not UTF-8 text",
    "caption too long": "more text than any caption has",
    "ambiguous caption": "a table names this image several times, with different captions",
    "unreadable json": "the sample's JSON is no JSON object, or an absurd one",
    # the sample as a whole
    "duplicate key": "another sample of this piece, read before, has the same key",
    "cut short by damage": "it stands next to damage of its file and lacks a part",
    "damaged record": "one record of a shard does not read back, or is no example",
    # what models make of it
    "unfit for a model": "a model cannot take the image, as for its sides",
    "score not finite": "a reward answered infinity, or NaN where it may not",
    "latents not finite": "the image encoder answered infinity or NaN",
    "tokens not finite": "the caption encoder answered infinity or NaN",
    # a piece, or a part of it; how many samples are lost is not known
    "damaged tar": "bytes of the archive are not what they must be; the rest was read",
    "damaged table": "the table cannot be read from here on, or lacks a column of images",
    "damaged shard": "the shard cannot be read, or holds fewer records than it should",
}
OF_TEXTS = frozenset(
    {
        "missing caption",
        "unreadable caption",
        "caption too long",
        "ambiguous caption",
        "unreadable json",
    }
)
OF_A_PIECE = frozenset({"damaged tar", "damaged table", "damaged shard"})


def check(cause: str) -> str:
    """Return a cause of the list.

    Raises:
      ValueError: it is not in the list.
    """
    if cause not in CAUSES:
        raise ValueError(
            f"A cause must be one of {', '.join(CAUSES)}; got {cause!r}. Add it to causes.CAUSES."
        )
    return cause
