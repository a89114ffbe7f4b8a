"""Options written once: the fields of a frozen dataclass are flags, `--help`, config keys, checks.

@dataclasses.dataclass(frozen=True)
class Settings:
    out: str = option(help="folder for the records")
    batch_size: int = option(64, at_least=1, help="samples scored together")

parser = Parser(prog="miro-jax annotate", description="...", epilog="example: ...")
add_flags(parser, Settings)
settings = make_settings(Settings, parser.read(arguments))    # from flags
settings = Settings(**config.annotate, out=...)               # from a config
check(settings)                                               # from either, or from Python
"""

import argparse
import dataclasses
import difflib
import math
import sys
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from miro_jax.cli.exit import UsageError

T = TypeVar("T")
# Of `--mesh`, see `models.sharding.parse_mesh`.
MESH_HELP = (
    "devices that work together: all; or DATAxMODEL, such as 4x2, where DATA devices share the "
    "images of a batch and MODEL devices share each matrix; allx2 is all devices, two to a matrix"
)


def option(
    default: Any = dataclasses.MISSING,
    *,
    help: str,
    group: str = "",
    metavar: str | None = None,
    parse: Callable[[str], Any] | None = None,
    **rules: Any,
) -> Any:
    """Return the dataclass field of an option.

    Args:
      default: without one the flag is required.
      help: one line, with the unit. group: title under which `--help` lists it.
      metavar: the value's name in `--help`.
      parse: text of the flag -> value; raises ValueError. By default the field's type decides:
        int, float, str; bool is a switch; a tuple takes its items with commas between.
      **rules: `choices`, a sequence; `at_least`, a number; `share=True`, a number in [0, 1];
        `repeat=True`, the flag is given once for each item of the tuple; `positional=True`, words
        without a flag; `flag=False`, for Python and configs only.
    """
    if unknown := rules.keys() - {"choices", "at_least", "share", "repeat", "positional", "flag"}:
        raise TypeError(f"option() has no rule {sorted(unknown)}.")
    rules |= {"help": help, "group": group, "metavar": metavar, "parse": parse}
    return dataclasses.field(default=default, metadata=rules)


def add_flags(parser: "Parser", settings: type) -> None:
    """Add a flag for each field of a dataclass, in order, under the titles of their groups."""
    groups: dict[str, Any] = {"": parser}
    for field in dataclasses.fields(settings):
        rules = field.metadata
        if "help" not in rules or rules.get("flag") is False:
            continue
        title = rules["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        name, arguments = _argument(field, _kind(field))
        groups[title].add_argument(name, help=rules["help"].replace("%", "%%"), **arguments)


def _argument(field: dataclasses.Field, kind: type) -> tuple[str, dict[str, Any]]:
    """Return the name and the arguments of `add_argument` for a field."""
    rules, required = field.metadata, field.default is dataclasses.MISSING
    arguments: dict[str, Any] = {} if required else {"default": field.default}
    if rules.get("positional"):
        return field.name, {"nargs": "+", "metavar": rules["metavar"]}
    arguments |= {"dest": field.name, "required": required}
    name = "--" + field.name.replace("_", "-")
    if kind is bool:
        return name, arguments | {"action": "store_true"}
    if rules["metavar"]:
        arguments["metavar"] = rules["metavar"]
    if rules.get("repeat"):
        arguments["action"] = "append"
        arguments["default"] = []
    if rules.get("choices"):
        arguments["choices"] = tuple(rules["choices"])
    arguments["type"] = _reader(rules["parse"] or _PARSERS.get(kind, str))
    return name, arguments


def _reader(parse: Callable[[str], Any]) -> Callable[[str], Any]:
    """Return a parser whose ValueError argparse shows as it is."""

    def read(text: str) -> Any:
        try:
            return parse(text)
        except ValueError as error:
            if parse in (int, float):
                kind = "an integer" if parse is int else "a number"
                raise argparse.ArgumentTypeError(f"must be {kind}; got {text!r}") from error
            raise argparse.ArgumentTypeError(str(error)) from error

    return read


def split_names(text: str) -> tuple[str, ...]:
    """Read names with commas between."""
    return tuple(filter(None, (word.strip() for word in text.split(","))))


_PARSERS: Mapping[type, Callable[[str], Any]] = {int: int, float: float, tuple: split_names}


def _kind(field: dataclasses.Field) -> type:
    """Return the type of a field without `| None` and without its items."""
    kinds = [field.type]
    if isinstance(field.type, types.UnionType):
        kinds = [kind for kind in typing.get_args(field.type) if kind is not types.NoneType]
    return typing.get_origin(kinds[0]) or kinds[0]


def make_settings(settings: type[T], flags: argparse.Namespace, **more: Any) -> T:
    """Return the dataclass with the values of the flags.

    Args:
      settings: the dataclass. flags: of a parser that `add_flags` filled.
      **more: fields that are no flags.
    """
    values = {}
    for field in dataclasses.fields(settings):
        if hasattr(flags, field.name):
            value = getattr(flags, field.name)
            values[field.name] = tuple(value) if isinstance(value, list) else value
    return settings(**values, **more)


def check(settings: Any, prefix: str = "") -> None:
    """Raise ValueError where a value breaks a rule of its option.

    Args:
      settings: an instance of a dataclass of options.
      prefix: put before the name in the message, such as "config.annotate.".
    """
    for field in dataclasses.fields(settings):
        value, rules, name = getattr(settings, field.name), field.metadata, prefix + field.name
        if value is None or "help" not in rules:
            continue
        kind = _kind(field)
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if kind in (int, float) and (not is_number or kind is int and value != int(value)):
            wanted = "an integer" if kind is int else "a number"
            raise ValueError(f"{name} must be {wanted}; got {value!r}.")
        if kind is float and not math.isfinite(value):
            raise ValueError(f"{name} must be finite; got {value!r}.")
        if rules.get("share") and not 0 <= value <= 1:
            raise ValueError(f"{name} must be in [0, 1]; got {value!r}.")
        if "at_least" in rules and value < rules["at_least"]:
            raise ValueError(f"{name} must be at least {rules['at_least']}; got {value!r}.")
        if rules.get("choices") and value not in rules["choices"]:
            known = ", ".join(map(str, rules["choices"]))
            raise ValueError(f"{name} must be one of {known}; got {value!r}.")


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows examples as they are, and defaults where there are any and the text does not."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        nothing = (None, "", (), [], False, argparse.SUPPRESS)
        if action.required or action.default in nothing:
            return text
        if isinstance(action.default, tuple):
            return f"{text} (default: {','.join(map(str, action.default))})"
        return text if "(default" in text else f"{text} (default: %(default)s)"


class Parser(argparse.ArgumentParser):
    """An argument parser that takes no abbreviations and raises instead of exiting."""

    def __init__(self, **arguments: Any):
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **arguments)

    def error(self, message: str) -> typing.NoReturn:
        """Raise what is wrong."""
        raise UsageError(message)

    def read(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse arguments, those of the process where none are given.

        Raises:
          UsageError: they cannot be understood; an unknown flag names the nearest known one.
          SystemExit: help was requested, and shown.
        """
        words = sys.argv[1:] if arguments is None else list(arguments)
        known = ["--", *(text for action in self._actions for text in action.option_strings)]
        try:
            values, unknown = self.parse_known_args(words)
        except UsageError:
            # Where a required flag is missing, a misspelt one may be why.
            flags = [word for word in words if word.startswith("--")]
            unknown = [flag for flag in flags if flag.partition("=")[0] not in known]
            if not unknown:
                raise
            values = None
        if values is not None and not unknown:
            return values
        near = difflib.get_close_matches(unknown[0].partition("=")[0], known, 1)
        raise UsageError(
            f"unknown argument {unknown[0]!r}"
            + (f"; did you mean {near[0]}?" if near else "; see --help.")
        )
