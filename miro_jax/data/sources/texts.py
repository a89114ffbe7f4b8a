"""Captions of a sample: the rules, the same for every container (KEY.txt, KEY.json, any table).

    caption   KEY.txt or the table's column, else the first of CAPTION_FIELDS in KEY.json or in the
              column `json`
    long      `synthetic_caption`, else the caption
    short     `short_synthetic_caption` or `synthetic_caption_short`, else `caption` of the JSON,
              else the caption

Of several columns of captions the first that holds text in a row counts. Of several captions the
first counts: of a list, of a list of objects such as `{"caption": ...}`,
and of a text that is one of these as JSON, or a list of texts as Python and numpy print it (as in
tables that pandas wrote). A KEY.json that is no object may be such a list, or a text. Names of
fields may be in capitals or not. Text is UTF-8, with or without a byte order mark; line breaks at
its end are dropped. A sample without a long and a short form has no synthetic caption. The
placeholder `<PERSON>`, which CC12M puts for names, is deleted as it stands; the white space around
it stays.

Source: the authors' annotation script. There a sample without a synthetic caption gets its own
caption a second time; here it gets none.
"""

import dataclasses
import functools
import json
import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from miro_jax.data.json_file import check_fields, parse_json
from miro_jax.data.sources.foreign import LFS, name_foreign

PLACEHOLDER = "<PERSON>"
MAX_CAPTION_CHARACTERS = 1 << 16  # ours; alternative texts of web pages reach some thousands
MAX_TEXT_BYTES = 1 << 20
MAX_JSON_BYTES = 1 << 20
CAPTION_FIELDS = ("caption", "text", "txt", "prompt", "captions", "sentences")
_INNER_FIELDS = (*CAPTION_FIELDS, "raw", "sentence")  # of the objects in a list of captions
# Texts in quotes as Python prints them in a list; numpy puts no commas between.
_QUOTED = r"'(?:[^'\\]|\\.)*+'|\"(?:[^\"\\]|\\.)*+\""
_PRINTED = re.compile(rf"\[\s*+({_QUOTED})(?:(?:\s*+,\s*+|\s++)(?:{_QUOTED}))*+\s*+\]", re.DOTALL)
_ESCAPED = {"n": "\n", "t": "\t", "r": "\r"}
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
    if caption.startswith(LFS.decode()):
        return "unreadable caption", f"it is {name_foreign(LFS)}"
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


def first_text(value: Any) -> str | None:
    """Return the caption that a value of any container holds, None where it holds no text.

    Raises:
      UnicodeDecodeError: it is bytes that are not UTF-8.
    """
    if isinstance(value, bytes):
        value = value.decode("utf-8")
    if isinstance(value, str):
        value = value.removeprefix("\ufeff").rstrip("\r\n")
        listed = _first_listed(value)
        return value if listed is None else listed
    if isinstance(value, Mapping):
        return next((text for name in _INNER_FIELDS if (text := _text(value, name))), None)
    return first_text(value[0]) if isinstance(value, list) and value else None


def first_with_text(values: Sequence[Any]) -> Any:
    """Return the first of a row's captions that holds text, else the first one; None of none."""
    return next(filter(_holds_text, values), values[0] if values else None)


def _holds_text(value: Any) -> bool:
    try:
        return bool((first_text(value) or "").strip())
    except UnicodeDecodeError:  # it is text, which `interpret` names
        return True


def _first_listed(text: str) -> str | None:
    """Return the first of several texts that are written as one list, "" of none, else None."""
    if text[:1] != "[" or not text.endswith("]"):
        return None
    try:
        listed = json.loads(text)
    except (ValueError, RecursionError):
        printed = _PRINTED.fullmatch(text)
        unescaped = functools.partial(re.sub, r"\\(.)", lambda m: _ESCAPED.get(m[1], m[1]))
        return printed and unescaped(printed[1][1:-1], flags=re.DOTALL)
    alike = any(all(isinstance(one, kind) for one in listed) for kind in (str, dict))
    return first_text(listed or "") if alike else None


def interpret(txt: Any, json_data: Any, columns: Mapping[str, Any] | None = None) -> Texts:
    """Read the texts of a sample.

    Args:
      txt: its caption: bytes or what `first_text` takes, None where there is none.
      json_data: its JSON: bytes, text or an object, None where there is none.
      columns: further values by name, texts as bytes; those with the names of the synthetic
        caption are its forms. One named `caption`, where another was requested, is not the JSON's.
    """
    name_of_json = CAPTION_FIELDS[0]
    columns = {n: v for n, v in (columns or {}).items() if n.strip().lower() != name_of_json}
    try:
        meta = {} if json_data is None else _read_object(json_data)
    except ValueError as error:
        return Texts(problem="unreadable json", detail=str(error))
    try:
        own = next((text for name in CAPTION_FIELDS if (text := _text(meta, name))), None)
        meta |= {name: decoded(value) for name, value in columns.items()}
        if isinstance(txt, bytes) and len(txt) > MAX_TEXT_BYTES:
            return Texts(meta=meta, problem="caption too long", detail=f"{len(txt)} bytes")
        caption = first_text(txt)
        for name in (LONG_FIELD, *SHORT_FIELDS):
            first_text(columns.get(name))
    except UnicodeDecodeError as error:
        return Texts(meta=meta, problem="unreadable caption", detail=str(error))
    caption = own if txt is None else caption
    return Texts(caption, synthetic_of(meta, caption), meta)


def _read_object(data: bytes | str | Mapping | list) -> dict:
    if isinstance(data, Mapping):
        return dict(decoded(data))
    if isinstance(data, list):  # of a table's column
        return {CAPTION_FIELDS[0]: first_text(data)}
    if len(data) > MAX_JSON_BYTES:
        raise ValueError(f"{len(data)} bytes, at most {MAX_JSON_BYTES}")
    if isinstance(data, bytes) and (other := name_foreign(data)):
        raise ValueError(f"it is {other}")
    value = parse_json(data, "its JSON", finite=False)
    if isinstance(value, str | list) and (caption := first_text(value)):
        return {CAPTION_FIELDS[0]: caption}
    check_fields(value, {}, "its JSON")
    assert isinstance(value, dict)  # has been checked
    return value


def decoded(value: Any) -> Any:
    """Return a value as JSON has it, bytes in it as text; what is not UTF-8 is escaped."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    if isinstance(value, Mapping):
        return {name: decoded(one) for name, one in value.items()}
    return [decoded(one) for one in value] if isinstance(value, list) else value


def synthetic_of(meta: Mapping[str, Any], caption: str | None) -> dict[str, str]:
    """Return both forms of the synthetic caption that a sample's values hold, or nothing."""
    long = _text(meta, LONG_FIELD)
    short = next((text for name in SHORT_FIELDS if (text := _text(meta, name))), None)
    return forms(long, short or (long and _text(meta, "caption")), caption)


def forms(long: str | None, short: str | None, caption: str | None) -> dict[str, str]:
    """Return both forms, the caption standing in for one that is missing; nothing without any."""
    long, short = (long or caption, short or caption) if long or short else (None, None)
    return {"long": long, "short": short} if long and short else {}


def _text(meta: Mapping[str, Any], name: str) -> str | None:
    """Return a text that is not empty once it is cleaned, or None."""
    if name not in meta:
        name = next((key for key in meta if str(key).strip().lower() == name), name)
    text = first_text(meta.get(name))
    return text if text and clean(text).strip() else None
