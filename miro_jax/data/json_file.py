"""JSON that is checked before it is believed: size, nesting, numbers, types.

    read_json(path, {"rewards": [str], "num_bins": int, "note?": (str, None)})

A schema is a type (`float` also takes integers, `int` takes no bool), `None`, a tuple of
alternatives, `[schema]` for a list, `{str: schema}` for an object of any keys, or an object by its
keys, those that may be missing marked by `?`. Further keys are allowed: a later version may have
written them.
"""

import json
import math
import os
from collections.abc import Iterable, Iterator
from typing import Any

from miro_jax.data.regular_file import read_regular

MOST_BYTES = 64 * 2**20  # of a JSON file of ours or of a model's config
DEEPEST = 64  # nested lists and objects
_KINDS = {
    bool: "true or false",
    int: "an integer",
    float: "a number",
    str: "a string",
    list: "a list",
    dict: "an object",
    None: "null",
}


def read_json(path: str | os.PathLike, schema: Any = None) -> Any:
    """Read a JSON file.

    Args:
      schema: what it must hold, see the module; None accepts any value.

    Raises:
      FileNotFoundError: there is none.
      ValueError: it is not a regular file, too large or no such JSON; the text names the file.
    """
    return parse_json(read_regular(path, MOST_BYTES), str(path), schema)


def holds(path: str | os.PathLike, schema: Any = None) -> bool:
    """Return whether a file is JSON of a schema; False where there is none."""
    try:
        read_json(path, schema)
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return False
    return True


def parse_json(
    data: bytes | str, name: str, schema: Any = None, *, finite: bool = True, doubles: bool = True
) -> Any:
    """Parse JSON text.

    Args:
      data: bytes in UTF-8, UTF-16 or UTF-32, with or without a byte order mark.
      name: the file, or the line of it, for messages.
      schema: what it must hold, see the module; None accepts any value.
      finite: refuse NaN and infinity, which JSON does not know but Python writes.
      doubles: accept a key that stands twice in an object; the last one counts.

    Raises:
      ValueError: it is no such JSON; the text names it.
    """
    try:
        if isinstance(data, bytes):
            data = data.decode(json.detect_encoding(data))
        value = json.loads(data, object_pairs_hook=None if doubles else without_doubles)
        if not all(map(math.isfinite, _floats(value))) and finite:
            raise ValueError(_not_finite(value))
    except RecursionError as error:
        raise ValueError(f"{name} is no JSON of ours: it is nested too deeply.") from error
    except ValueError as error:
        raise ValueError(f"{name} is no valid JSON: {error}.") from error
    if schema is not None:
        check_fields(value, schema, name)
    return value


def parse_lines(data: bytes, name: object, schema: Any = None) -> list[Any]:
    """Parse JSON lines; raises as `parse_json`, and the text names the line of `name`."""
    lines = enumerate(data.splitlines(), 1)
    return [parse_json(line, f"line {number} of {name}", schema) for number, line in lines]


def dump_lines(values: Iterable[Any], **options: Any) -> bytes:
    """Return JSON lines, a line for each value; see `dump_json`."""
    return "".join(dump_json(value, **options) + "\n" for value in values).encode("utf-8")


def is_json_lines(first: str, second: str) -> bool:
    """Return whether a file that begins with these two lines has a JSON object in each line."""
    if not (first.lstrip().startswith("{") and second.lstrip().startswith("{")):
        return False
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def check_fields(value: Any, schema: Any, name: str) -> None:
    """Check a parsed value against a schema, see the module.

    Raises:
      ValueError: the first entry that differs, after `name`.
    """
    if problem := _problem(value, schema, ""):
        raise ValueError(f"{name}: {problem}.")


def dump_json(value: Any, **options: Any) -> str:
    """Return a value as JSON text; options as those of `json.dumps`.

    Raises:
      ValueError: a number in it is not finite; the text names where it stands.
    """
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False, **options)
    except ValueError as error:
        raise ValueError(f"{_not_finite(value) or error}.") from error


def _floats(value: Any) -> list[float]:
    """Return every float of a parsed value; RecursionError beyond DEEPEST levels."""
    floats, layer = [], [value]
    for _ in range(DEEPEST + 1):
        floats += [item for item in layer if isinstance(item, float)]
        lists = [item for item in layer if isinstance(item, list)]
        lists += [item.values() for item in layer if isinstance(item, dict)]
        if not (layer := [item for items in lists for item in items]):
            return floats
    raise RecursionError


def _not_finite(value: Any, path: str = "") -> str:
    """Return which number is the first that is not finite, or an empty string."""
    if isinstance(value, float) and not math.isfinite(value):
        return f"{path or 'its value'} must be a finite number; got {value}"
    below: Iterator[tuple[str, Any]] = iter(())
    if isinstance(value, dict):
        below = ((f"{path}.{key}" if path else str(key), item) for key, item in value.items())
    elif isinstance(value, list | tuple):
        below = ((f"{path}[{index}]", item) for index, item in enumerate(value))
    return next(filter(None, (_not_finite(item, name) for name, item in below)), "")


def _problem(value: Any, schema: Any, path: str) -> str:
    """Return what is wrong with a value, or an empty string."""
    if isinstance(schema, tuple):
        fits = any(not _problem(value, one, path) for one in schema)
        return "" if fits else _differs(value, " or ".join(map(_kind, schema)), path)
    kind = type(schema) if isinstance(schema, list | dict) else schema
    accepted = (int, float) if kind is float else type(None) if kind is None else kind
    if not isinstance(value, accepted) or (isinstance(value, bool) and kind is not bool):
        return _differs(value, _kind(schema), path)
    problems: Iterator[str] = iter(())
    if isinstance(schema, list) and schema and isinstance(value, list):
        problems = (_problem(one, schema[0], f"{path}[{i}]") for i, one in enumerate(value))
    elif isinstance(schema, dict) and isinstance(value, dict):
        problems = _object_problems(value, schema, path)
    return next(filter(None, problems), "")


def _object_problems(value: dict, schema: dict, path: str) -> Iterator[str]:
    before = f"{path}." if path else ""
    if str in schema:
        for key, one in value.items():
            yield _problem(one, schema[str], before + key)
        return
    for key, below in schema.items():
        if (name := key.removesuffix("?")) in value:
            yield _problem(value[name], below, before + name)
        elif name == key:
            yield f"{before + key} is missing"


def _differs(value: Any, wanted: str, path: str) -> str:
    text = json.dumps(value, ensure_ascii=True, default=repr)
    return f"{path or 'it'} must be {wanted}; got {text if len(text) <= 60 else text[:60] + '...'}"


def _kind(schema: Any) -> str:
    if isinstance(schema, tuple):
        return " or ".join(map(_kind, schema))
    return _KINDS[type(schema) if isinstance(schema, list | dict) else schema]


def without_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Make an object of JSON's pairs; ValueError where a key stands twice."""
    result = dict(pairs)
    if len(result) != len(pairs):
        raise ValueError("a key stands twice")
    return result


def with_tuples(value: Any) -> Any:
    """Return JSON values with tuples in place of lists, as configs have them."""
    if isinstance(value, dict):
        return {key: with_tuples(item) for key, item in value.items()}
    return tuple(map(with_tuples, value)) if isinstance(value, list) else value
