"""Captions of a sample from what stands beside its image: the rules, in one place.

    caption   KEY.txt, else `caption` of KEY.json
    long      `synthetic_caption` of KEY.json, else the caption
    short     `short_synthetic_caption` or `synthetic_caption_short`, else `caption` of KEY.json,
              else the caption

A sample without a long and a short form has no synthetic caption. The placeholder `<PERSON>`, which
CC12M puts for names, is deleted as it stands; the white space around it stays.

Source: the authors' annotation script. There a sample without a synthetic caption gets its own
caption a second time; here it gets none.
"""

import dataclasses
import json
import unicodedata
from collections.abc import Mapping
from typing import Any

PLACEHOLDER = "<PERSON>"
MAX_CAPTION_CHARACTERS = 1 << 16  # ours; alternative texts of web pages reach some thousands
MAX_TEXT_BYTES = 1 << 20
MAX_JSON_BYTES = 1 << 20
SHORT_FIELDS = ("short_synthetic_caption", "synthetic_caption_short")
LONG_FIELD = "synthetic_caption"


@dataclasses.dataclass(frozen=True)
class Texts:
    """What was read: caption or None, forms of the synthetic caption, the JSON, and a problem.

    synthetic: {"long": text, "short": text}, or empty. problem: one of `causes`, or "".
    """

    caption: str | None = None
    synthetic: dict[str, str] = dataclasses.field(default_factory=dict)
    meta: dict = dataclasses.field(default_factory=dict)
    problem: str = ""
    detail: str = ""


def clean(caption: str) -> str:
    """Delete the placeholder for names."""
    return caption.replace(PLACEHOLDER, "")


def check(caption: str) -> tuple[str, str]:
    """Return the cause why a text is no caption, with a detail; two empty texts if it is one."""
    if not clean(caption).strip():
        return "missing caption", ""
    if len(caption) > MAX_CAPTION_CHARACTERS:
        return "caption too long", f"{len(caption)} characters, at most {MAX_CAPTION_CHARACTERS}"
    if "\0" in caption:  # most likely UTF-16
        return "unreadable caption", "a zero character"
    if not encodable(caption):
        return "unreadable caption", "half of a surrogate pair"
    if not any(unicodedata.category(sign)[0] in "LNPS" for sign in clean(caption)):
        return "missing caption", "nothing but signs that cannot be seen"
    return "", ""


def encodable(text: str) -> bool:
    """Return whether UTF-8 can hold a text; JSON can also write halves of characters."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def decode(data: bytes) -> str:
    """Decode UTF-8, with or without a byte order mark.

    Raises:
      UnicodeDecodeError: it is something else.
    """
    return data.decode("utf-8-sig")


def interpret(txt: bytes | None, json_bytes: bytes | None) -> Texts:
    """Read the texts of a sample from its files, where None stands for a file that is not there."""
    meta: dict = {}
    if json_bytes is not None:
        try:
            if len(json_bytes) > MAX_JSON_BYTES:
                raise ValueError(f"{len(json_bytes)} bytes, at most {MAX_JSON_BYTES}")
            meta = json.loads(json_bytes)
            if not isinstance(meta, dict):
                raise ValueError(f"must be an object; got {type(meta).__name__}")
        except (ValueError, RecursionError) as error:  # UnicodeDecodeError is a ValueError
            return Texts(problem="unreadable json", detail=str(error))
    caption = _text(meta, "caption")
    if txt is not None:
        if len(txt) > MAX_TEXT_BYTES:
            return Texts(meta=meta, problem="caption too long", detail=f"{len(txt)} bytes")
        try:
            caption = decode(txt).rstrip("\r\n")  # with which editors end a file
        except UnicodeDecodeError as error:
            return Texts(meta=meta, problem="unreadable caption", detail=str(error))
    return Texts(caption, synthetic_of(meta, caption), meta)


def decode_row(values: Mapping[str, Any]) -> Texts:
    """Read the texts of a sample from a row of a table, in which texts are bytes.

    Args:
      values: by name, `caption` and the forms of the synthetic caption among them.
    """
    meta, problem, detail = {}, "", ""
    for name, value in values.items():
        try:
            meta[name] = value.decode("utf-8") if isinstance(value, bytes) else value
        except UnicodeDecodeError as error:
            meta[name] = value.decode("utf-8", "backslashreplace")
            if name in ("caption", LONG_FIELD, *SHORT_FIELDS):
                problem, detail = "unreadable caption", f"{name}: {error}"
    caption = meta.pop("caption", None)
    return Texts(caption, synthetic_of(meta, caption), meta, problem, detail)


def synthetic_of(meta: dict, caption: str | None) -> dict[str, str]:
    """Return both forms of the synthetic caption that a sample's values hold, or nothing."""
    long = _text(meta, LONG_FIELD)
    short = next((text for name in SHORT_FIELDS if (text := _text(meta, name))), None)
    if not long and not short:
        return {}
    return forms(long, short or _text(meta, "caption"), caption)


def forms(long: str | None, short: str | None, caption: str | None) -> dict[str, str]:
    """Return both forms, the caption standing in for one that is missing; nothing without any."""
    if not (long or short):
        return {}
    both = {"long": long or caption, "short": short or caption}
    present = {form: text for form, text in both.items() if text}
    return present if len(present) == len(both) else {}


def _text(meta: dict, name: str) -> str | None:
    """Return a text that is not empty once it is cleaned, or None."""
    value = meta.get(name)
    return value if isinstance(value, str) and clean(value).strip() else None
