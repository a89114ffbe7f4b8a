"""A pickle machine that builds plain values and can do nothing else.

A pickle is a program for a small stack machine. Python's own machine imports and calls whatever the
program names; this one knows containers, strings, numbers and a table of names given by its caller.
A name outside of the table is refused (or, on request, becomes an inert placeholder), nothing is
ever imported, and no method of an object from the file is called. Opcodes that only serve to make
foreign objects (INST, OBJ, extensions, buffers) do not exist here.

Work and memory are bounded by the length of the program and by MOST_STEPS. Keys of dictionaries are
strings or small integers, whose hashes cost nothing and cannot be made to collide.

Source of the opcodes: Python's documentation of `pickletools`, protocols 2 to 5.
"""

import dataclasses
import os
import struct
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

MOST_STEPS = 4_000_000  # opcodes; a checkpoint takes about 40 a tensor
LONGEST_NAME = 500  # characters of a module's or object's name
LONGEST_INTEGER = 16  # bytes
LARGEST_KEY = 2**61 - 1  # integers from here on share hashes with smaller ones


@dataclasses.dataclass(frozen=True)
class Constructor:
    """A function of ours that stands for a name in the file; checks its arguments."""

    function: Callable[[tuple], Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Placeholder:
    """What is left of an object of unknown kind, its name. It does nothing."""

    name: str


class Ordered(dict):
    """A dictionary that the file calls an OrderedDict."""


def ordered(arguments: tuple) -> Ordered:
    """Make an OrderedDict: empty, or of one list of pairs as Python 2 wrote it."""
    result = Ordered()
    for pairs in arguments:
        for pair in pairs if isinstance(pairs, list) else [None]:
            if not isinstance(pair, list | tuple) or len(pair) != 2:
                raise ValueError("an OrderedDict must be made of a list of pairs.")
            _put(result, *pair)
    return result


class Source:
    """Bytes of a file from `begin` to `end`, taken one after another; never more than there are."""

    def __init__(self, file: BinaryIO, begin: int, end: int):
        self._file, self.position, self.end = file, begin, end
        file.seek(begin, os.SEEK_SET)

    def take(self, count: int) -> bytes:
        """Return the next `count` bytes."""
        if not 0 <= count <= self.end - self.position:
            raise ValueError("the file is cut short or damaged.")
        data = self._file.read(count)
        if len(data) != count:
            raise ValueError("the file is cut short or damaged.")
        self.position += count
        return data

    def number(self, form: str) -> Any:
        """Return the next number, `form` as in `struct`."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def line(self) -> str:
        """Return the text up to the next end of line."""
        line = self._file.readline(min(LONGEST_NAME, self.end - self.position))
        self.position += len(line)
        if not line.endswith(b"\n"):
            raise ValueError("a name in the file is too long or cut short.")
        return line[:-1].decode("utf-8")


class Machine:
    """Runs one pickle.

    Args:
      source: where the program stands.
      names: (module, name) -> value; a `Constructor` can be called by the file, others are inert.
      persistent: makes the value of a persistent id; it checks the id.
      placeholders: True keeps unknown names as `Placeholder`; False refuses them.
    """

    def __init__(
        self,
        source: Source,
        names: Mapping[tuple[str, str], Any],
        persistent: Callable[[Any], Any],
        placeholders: bool = False,
    ):
        self._source, self._names, self._persistent = source, names, persistent
        self._placeholders = placeholders
        self._stack: list[Any] = []
        self._below: list[list[Any]] = []  # the stacks under each mark
        self._memo: dict[int, Any] = {}

    def run(self) -> Any:
        """Run the program to its end.

        Returns:
          What it builds: dicts, lists, tuples, sets, str, bytes, numbers, bools, None, Placeholders
          and what `names` and `persistent` give.

        Raises:
          ValueError: the program is damaged, too long, or names what is not allowed.
        """
        for _ in range(MOST_STEPS):
            code = self._source.take(1)
            if code == b".":
                return self._pop()
            if code in CONSTANTS:
                self._push(CONSTANTS[code])
            elif code in NUMBERS:
                self._push(self._source.number(NUMBERS[code]))
            elif code in TEXTS:
                self._push(self._bytes(TEXTS[code]).decode("utf-8"))
            elif code in BYTES:
                self._push(self._bytes(BYTES[code]))
            elif code in STEPS:
                STEPS[code](self)
            else:
                raise ValueError(f"the file holds the pickle opcode {code!r}, which is refused.")
        raise ValueError(f"the file holds a pickle of more than {MOST_STEPS} steps.")

    def _bytes(self, form: str) -> bytes:
        return self._source.take(self._source.number(form))

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop(self) -> Any:
        if not self._stack:
            raise ValueError("the pickle is damaged: a value is missing.")
        return self._stack.pop()

    def _mark(self) -> None:
        self._below.append(self._stack)
        self._stack = []

    def _marked(self) -> list[Any]:
        """Take all values above the last mark."""
        if not self._below:
            raise ValueError("the pickle is damaged: a mark is missing.")
        values, self._stack = self._stack, self._below.pop()
        return values

    def _top(self, *kinds: type) -> Any:
        if not self._stack or not isinstance(self._stack[-1], kinds):
            raise ValueError("the pickle is damaged: a container is missing.")
        return self._stack[-1]

    def _protocol(self) -> None:
        if (version := self._source.number("B")) > 5:
            raise ValueError(f"pickles must be of protocol 5 or lower; got {version}.")

    def _frame(self) -> None:
        self._source.take(8)  # only a hint how much to read at once

    def _integer(self, form: str) -> None:
        length = self._source.number(form)
        if not 0 <= length <= LONGEST_INTEGER:
            raise ValueError(f"an integer of the file takes {length} bytes; at most 16 are read.")
        self._push(int.from_bytes(self._source.take(length), "little", signed=True))

    def _remember(self, key: int) -> None:
        self._memo[key] = self._top(object)

    def _recall(self, key: int) -> None:
        if key not in self._memo:
            raise ValueError("the pickle is damaged: it asks for a value that it never stored.")
        self._push(self._memo[key])

    def _tuple(self, count: int) -> None:
        values = [self._pop() for _ in range(count)]
        self._push(tuple(reversed(values)))

    def _append(self, values: list[Any]) -> None:
        target = self._top(list, Placeholder)
        if isinstance(target, list):
            target.extend(values)

    def _add(self, values: list[Any]) -> None:
        target = self._top(set)
        for value in values:
            target.add(_key(value))

    def _set(self, values: list[Any]) -> None:
        if len(values) % 2:
            raise ValueError("the pickle is damaged: a key has no value.")
        target = self._top(dict, Placeholder)
        if isinstance(target, dict):
            for key, value in zip(values[::2], values[1::2], strict=True):
                _put(target, key, value)

    def _global(self) -> None:
        self._name(self._source.line(), self._source.line())

    def _stack_global(self) -> None:
        name, module = self._pop(), self._pop()
        if not isinstance(name, str) or not isinstance(module, str):
            raise ValueError("the pickle is damaged: a name is no string.")
        self._name(module, name)

    def _name(self, module: str, name: str) -> None:
        if (module, name) in self._names:
            self._push(self._names[module, name])
        elif self._placeholders:
            self._push(Placeholder(f"{module}.{name}"[:LONGEST_NAME]))
        else:
            raise ValueError(
                f"the file asks for {f'{module}.{name}'[:LONGEST_NAME]}, which is no tensor, "
                "container or number, and is refused. Save the state dict alone, or get the "
                "weights as safetensors."
            )

    def _reduce(self) -> None:
        arguments, function = self._pop(), self._pop()
        if isinstance(function, Placeholder):
            self._push(Placeholder(function.name))
        elif isinstance(function, Constructor) and isinstance(arguments, tuple):
            self._push(function.function(arguments))
        else:
            raise ValueError("the file calls what is no constructor, and is refused.")

    def _new(self, parts: int) -> None:
        for _ in range(parts):  # its arguments, which nobody needs
            self._pop()
        if not isinstance(self._top(object), Placeholder):
            raise ValueError("the file makes an object of a class, and is refused.")
        self._push(Placeholder(self._pop().name))

    def _build(self) -> None:
        self._pop()  # attributes, such as a state dict's `_metadata`; nobody needs them
        if not isinstance(self._top(object), Ordered | Placeholder):
            raise ValueError("the file sets attributes of what has none, and is refused.")

    def _persist(self) -> None:
        self._push(self._persistent(self._pop()))


def _key(value: Any) -> Any:
    """Return a key if its hash is safe."""
    if isinstance(value, str) or (isinstance(value, int) and abs(value) < LARGEST_KEY):
        return value
    raise ValueError(f"keys must be strings or 61-bit integers; got {type(value).__name__}.")


def _put(target: dict, key: Any, value: Any) -> None:
    if _key(key) in target:
        raise ValueError(f"the key {str(key)[:LONGEST_NAME]!r} stands in the file twice.")
    target[key] = value


CONSTANTS = {b"N": None, b"\x88": True, b"\x89": False, b")": ()}
NUMBERS = {b"J": "<i", b"K": "B", b"M": "<H", b"G": ">d"}
TEXTS = {b"X": "<I", b"\x8c": "B", b"\x8d": "<Q", b"U": "B", b"T": "<i"}
BYTES = {b"B": "<I", b"C": "B", b"\x8e": "<Q"}
STEPS: dict[bytes, Callable[[Machine], None]] = {
    b"\x80": Machine._protocol,
    b"\x95": Machine._frame,
    b"(": Machine._mark,
    b"\x8a": lambda m: m._integer("B"),
    b"\x8b": lambda m: m._integer("<i"),
    b"q": lambda m: m._remember(m._source.number("B")),
    b"r": lambda m: m._remember(m._source.number("<I")),
    b"\x94": lambda m: m._remember(len(m._memo)),
    b"h": lambda m: m._recall(m._source.number("B")),
    b"j": lambda m: m._recall(m._source.number("<I")),
    b"\x85": lambda m: m._tuple(1),
    b"\x86": lambda m: m._tuple(2),
    b"\x87": lambda m: m._tuple(3),
    b"t": lambda m: m._push(tuple(m._marked())),
    b"]": lambda m: m._push([]),
    b"}": lambda m: m._push({}),
    b"\x8f": lambda m: m._push(set()),
    b"a": lambda m: m._append([m._pop()]),
    b"e": lambda m: m._append(m._marked()),
    b"s": lambda m: m._set([m._pop(), m._pop()][::-1]),
    b"u": lambda m: m._set(m._marked()),
    b"\x90": lambda m: m._add(m._marked()),
    b"c": Machine._global,
    b"\x93": Machine._stack_global,
    b"R": Machine._reduce,
    b"\x81": lambda m: m._new(1),
    b"\x92": lambda m: m._new(2),
    b"b": Machine._build,
    b"Q": Machine._persist,
}
