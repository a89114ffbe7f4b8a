"""Options written once: the fields of a frozen dataclass are flags, `--help`, config keys, checks.

@dataclasses.dataclass(frozen=True)
class Settings:
    out: str = option(help="folder for the records")
    batch_size: int = option(64, at_least=1, help="samples scored together")

parser = Parser("annotate", Settings, description="...", epilog="example: ...")
settings = make_settings(Settings, parser.read(arguments))    # from flags
settings = Settings(**config.annotate, out=...)               # from a config
check(settings)                                               # from either, or from Python
"""

import argparse
import dataclasses
import math
import numbers
import os
import re
import sys
import types
import typing
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from miro_jax.cli.dialect import nearest_flag
from miro_jax.cli.exit import UsageError, command_of
from miro_jax.data.near import near_name

T = TypeVar("T")
_OF_PATHS = ("--checkpoint", "--source", "--workdir", "--config")  # that may be typed without
_MISSING = "the following arguments are required: "  # as argparse says it
_STATUSES = """Exit status: 0 {done}, 1 {failed},
2 a bad argument; 130, 143 or 129 stopped by Ctrl-C (SIGINT), SIGTERM or SIGHUP."""
_RULES = {"choices", "at_least", "at_most", "share", "repeat", "positional", "flag", "unset"}
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
      **rules: `choices`, a sequence; `at_least`, `at_most`, numbers; `share=True`, a number in
        [0, 1]; `repeat=True`, the flag is given once for each item of the tuple; `positional=True`,
        a word without a flag, or all words for a tuple; `flag=False`, for Python and configs only;
        `flag="steps"`, a flag of another name; `unset="the run's"`, what a flag that is not given
        means before the default: `make_settings` is given that value where there is one.
    """
    if unknown := rules.keys() - _RULES:
        raise TypeError(f"option() has no rule {sorted(unknown)}.")
    rules |= {"help": help, "group": group, "metavar": metavar, "parse": parse}
    return dataclasses.field(default=default, metadata=rules)


def add_flags(
    parser: "Parser",
    settings: type,
    defaults: Mapping[str, Any] | None = None,
    skip: Collection[str] = (),
) -> None:
    """Add a flag for each field of a dataclass, in order, under the titles of their groups.

    The groups that a class inherits come after its own.

    Args:
      parser: may have flags of other dataclasses; groups of the same title become one.
      settings: the dataclass.
      defaults: of some fields, in place of their own.
      skip: fields that get no flag.
    """
    groups: dict[str, Any] = {group.title: group for group in parser._action_groups} | {"": parser}
    fields = dataclasses.fields(settings)
    own = {f.metadata.get("group") for f in fields if f.name in settings.__annotations__}
    for field in sorted(fields, key=lambda field: field.metadata.get("group") not in own):
        rules = field.metadata
        if "help" not in rules or rules.get("flag") is False or field.name in skip:
            continue
        title = rules["group"]
        if title not in groups:
            groups[title] = parser.add_argument_group(title)
        default, text = field.default, rules["help"]
        if field.name in (defaults or {}):
            default, text = defaults[field.name], text.partition(" (default")[0]
        elif rules.get("unset"):
            text += f" (default: {rules['unset']}, or {show(default)})"
            default = None
        name, arguments = _argument(field, default)
        groups[title].add_argument(name, help=text.replace("%", "%%"), **arguments)


def _argument(field: dataclasses.Field, default: Any) -> tuple[str, dict[str, Any]]:
    """Return the name and the arguments of `add_argument` for a field."""
    rules, kind, required = field.metadata, _kind(field), default is dataclasses.MISSING
    arguments: dict[str, Any] = {} if required else {"default": default}
    if rules.get("positional"):
        more = {"nargs": "+"} if kind is tuple else {}
        return field.name, {"metavar": rules["metavar"]} | more
    arguments |= {"dest": field.name, "required": required}
    name = "--" + (rules.get("flag") or field.name).replace("_", "-")
    if kind is bool:
        return name, arguments | {"action": "store_true"}
    if rules["metavar"]:
        arguments["metavar"] = rules["metavar"]
    if rules.get("repeat"):
        arguments["action"] = "append"
        arguments["default"] = []
    if rules.get("choices"):
        arguments["choices"] = tuple(rules["choices"])
    arguments["type"] = _reader(field)
    return name, arguments


def _reader(field: dataclasses.Field) -> Callable[[str], Any]:
    """Return the parser of a flag's text, whose errors argparse shows as they are."""
    kind = _kind(field)
    parse = field.metadata["parse"] or _PARSERS.get(kind, str)

    def read(text: str) -> Any:
        try:
            value = parse(text)
        except ValueError as error:
            wrong = f"must be {_NUMBERS[kind]}; got {text!r}" if parse in (int, float) else error
            raise argparse.ArgumentTypeError(str(wrong)) from error
        broken = None if field.metadata.get("choices") else _broken_rule(field, value)
        if broken:
            raise argparse.ArgumentTypeError(f"{broken}; got {text!r}")
        return value

    return read


def split_names(text: str) -> tuple[str, ...]:
    """Read names with commas between."""
    return tuple(filter(None, (word.strip() for word in text.split(","))))


def show(value: Any) -> str:
    """Return a default as somebody would type it."""
    if isinstance(value, tuple):
        return ",".join(map(show, value))
    return f"{value:g}" if isinstance(value, float) else str(value)


_PARSERS: Mapping[type, Callable[[str], Any]] = {int: int, float: float, tuple: split_names}
_NUMBERS = {int: "an integer", float: "a number"}


def _kind(field: dataclasses.Field) -> type:
    """Return the type of a field without `| None` and without its items."""
    kinds = [field.type]
    if isinstance(field.type, types.UnionType):
        kinds = [kind for kind in typing.get_args(field.type) if kind is not types.NoneType]
    return typing.get_origin(kinds[0]) or kinds[0]


def make_settings(settings: type[T], flags: argparse.Namespace, /, **more: Any) -> T:
    """Return the dataclass with the values of the flags.

    Args:
      settings: the dataclass. flags: of a parser that `add_flags` filled.
      **more: fields that are no flags, and values of flags that are not given.
    """
    for field in dataclasses.fields(settings):
        value = getattr(flags, field.name, None)
        if value is not None:
            more[field.name] = tuple(value) if isinstance(value, list) else value
    return settings(**more)


def from_call(settings: type[T], given: Mapping[str, Any]) -> T:
    """Return the dataclass with the arguments of a call from Python; TypeError for an unknown one.

    Args:
      settings: the dataclass. given: values of fields, by name.
    """
    known = [field.name for field in dataclasses.fields(settings)]
    if unknown := [name for name in given if name not in known]:
        near = near_name(unknown[0], known, f"; these are known: {', '.join(known)}.")
        raise TypeError(f"unknown argument {unknown[0]!r}{near}")
    return settings(**given)


def check(settings: Any, prefix: str = "") -> None:
    """Raise ValueError where a value breaks a rule of its option.

    A number or truth value of numpy, or a whole number as 2.0, becomes one of Python.

    Args:
      settings: an instance of a dataclass of options.
      prefix: put before the name in the message, such as "config.annotate.".
    """
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        optional = field.default is None or types.NoneType in typing.get_args(field.type)
        if "help" not in field.metadata or value is None and optional:
            continue
        if broken := _broken_rule(field, value):
            end = near_name(str(value), map(str, field.metadata.get("choices") or ()))
            raise ValueError(f"{prefix}{field.name} {broken}; got {value!r}{end}")
        if (kind := _kind(field)) in (int, float, bool) and not isinstance(value, int | kind):
            object.__setattr__(settings, field.name, kind(value))  # range() and JSON need it


def _broken_rule(field: dataclasses.Field, value: Any) -> str | None:
    """Return what must hold of an option's value and does not."""
    kind, rules = _kind(field), field.metadata
    if kind is bool and type(value).__name__ not in ("bool", "bool_"):  # numpy's
        return "must be True or False"
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if kind in (int, float) and is_number and not math.isfinite(value):
        return "must be finite"
    if kind in (int, float) and (not is_number or kind is int and value != int(value)):
        return f"must be {_NUMBERS[kind]}"
    if rules.get("share") and not 0 <= value <= 1:
        return "must be in [0, 1]"
    if "at_least" in rules and value < rules["at_least"]:
        return f"must be at least {rules['at_least']}"
    if "at_most" in rules and value > rules["at_most"]:
        return f"must be at most {rules['at_most']}"
    if rules.get("choices") and value not in rules["choices"]:
        return f"must be one of {', '.join(map(str, rules['choices']))}"
    return None


def _hint(action: argparse.Action | None) -> str:
    """Return the first words of a flag's help, in brackets."""
    text = re.split(r"[;(]|:\s", action.help or "")[0].strip() if action else ""
    return f" ({text.replace('%%', '%')})" if text else ""


class _Formatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Shows examples as they are, and defaults where there are any and the text does not."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        nothing = (None, "", (), [], argparse.SUPPRESS)
        if action.required or action.default is False or action.default in nothing:
            return text
        return text if "(default" in text else f"{text} (default: {show(action.default)})"


def _option_strings(parser: argparse.ArgumentParser) -> Iterator[str]:
    """Yield the flags of a parser and of its sub-commands."""
    for action in parser._actions:
        yield from action.option_strings
        if isinstance(action, argparse._SubParsersAction):
            for one in action.choices.values():
                yield from _option_strings(one)


class Parser(argparse.ArgumentParser):
    """An argument parser that takes no abbreviations and raises instead of exiting.

    Args:
      verb: of `miro-jax`; its sub-commands have a `prog` instead. settings: whose fields are flags.
      epilog: after the flags in the help. done, failed: what exit statuses 0 and 1 mean, there too.
    """

    def __init__(
        self,
        verb: str = "",
        settings: type | None = None,
        *,
        epilog: str = "",
        done: str = "all is done",
        failed: str = "it failed",
        **arguments: Any,
    ):
        arguments |= {"prog": command_of(verb)} if verb else {}
        arguments["epilog"] = f"{epilog.rstrip()}\n\n{_STATUSES.format(done=done, failed=failed)}"
        super().__init__(allow_abbrev=False, formatter_class=_Formatter, **arguments)
        if settings is not None:
            add_flags(self, settings)

    def error(self, message: str) -> typing.NoReturn:
        """Raise what is wrong; of what must be given, also what it is."""
        start, missing, names = message.partition(_MISSING)
        if missing and not start:
            helps = {"/".join(a.option_strings) or a.metavar or a.dest: a for a in self._actions}
            listed = ", ".join(name + _hint(helps.get(name)) for name in names.split(", "))
            message = f"{_MISSING}{listed}. See --help."
        raise UsageError(message)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        """Raise what the choices are, where a value is none of them: argparse names no nearest."""
        if action.choices is not None and value not in action.choices:
            choices = [str(one) for one in action.choices]
            broken = f"must be one of {', '.join(choices)}; got {value!r}"
            raise argparse.ArgumentError(action, broken + near_name(str(value), choices, ""))

    def flags(self) -> list[str]:
        """Return the flags that it knows, as they are typed."""
        return list(_option_strings(self))

    def read(self, arguments: Sequence[str] | None = None) -> argparse.Namespace:
        """Parse arguments, those of the process where none are given.

        Raises:
          UsageError: they cannot be understood; an unknown flag names the nearest known one.
          SystemExit: help was requested, and shown.
        """
        words = sys.argv[1:] if arguments is None else list(arguments)
        known = ["--", *_option_strings(self)]
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
        raise UsageError(f"unknown argument {unknown[0]!r}{self._meant(unknown[0], known)}")

    def _meant(self, word: str, known: Sequence[str]) -> str:
        """Return what an unknown argument may mean, after its name."""
        if word.startswith("-"):
            near = nearest_flag(word.partition("=")[0], known)
        else:  # a path, most likely
            near = next((f"{flag}={word}" for flag in _OF_PATHS if flag in known), None)
            taken = [str(a.metavar or a.dest) for a in self._actions if not a.option_strings]
            if taken:
                more = " Put a pattern of files in quotes." if os.path.exists(word) else ""
                return f": besides flags it takes {' '.join(taken)} and no more.{more} See --help."
        return f"; did you mean {near}?" if near else "; see --help."
