"""Examples as TensorFlow Datasets writes them, read without TensorFlow.

An example is a protocol buffer: a map from a name such as `captions/text` to a list of bytes, of
floats or of integers. On the wire that is

    Example { 1: Features { 1, repeated: { 1: name, 2: Feature { 1: bytes | 2: floats | 3: ints }}}}

and each list is { 1, repeated: value }, its numbers packed into one field or not.

Source: tensorflow/core/example/{example,feature}.proto; protobuf.dev, "Encoding".
"""

import struct
from collections.abc import Iterator

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_SINGLE = {1: _BYTES, 2: _FIXED32, 3: _VARINT}  # wire type of one value of each kind of list


def decode(data: bytes) -> dict[str, list]:
    """Read an example.

    Returns:
        name -> list of bytes, floats or integers.

    Raises:
        ValueError: the bytes are no example.
    """
    features: dict[str, list] = {}
    try:
        for number, _, content in _fields(memoryview(data)):
            if number != 1:
                continue
            for field, _, entry in _fields(_message(content)):
                if field == 1:
                    parts = {n: value for n, _, value in _fields(_message(entry))}
                    name = bytes(_message(parts[1])).decode("utf-8")
                    features[name] = _values(_message(parts.get(2, b"")))
    except (IndexError, KeyError, struct.error, ValueError) as error:
        raise ValueError(f"no example: {type(error).__name__}: {error}") from error
    return features


def _message(value: object) -> memoryview:
    if isinstance(value, int):
        raise ValueError("a number where a message must be")
    return memoryview(value)


def _values(feature: memoryview) -> list:
    """Read a Feature: the list that it holds."""
    values: list = []
    for kind, _, content in _fields(feature):
        for number, wire, value in _fields(_message(content)):
            if number != 1:
                continue
            if wire not in (_BYTES, _SINGLE.get(kind)):
                raise ValueError(f"a value of kind {kind} in wire type {wire}")
            if kind == 1:
                values.append(bytes(value))
            elif kind == 2:
                values.extend(struct.unpack(f"<{len(value) // 4}f", value))
            elif wire == _VARINT:
                values.append(_signed(value))
            else:
                at = 0
                while at < len(value):
                    integer, at = _varint(value, at)
                    values.append(_signed(integer))
    return values


def _fields(data: memoryview) -> Iterator[tuple[int, int, object]]:
    """Yield (number, wire type, content) of a message: an int, or a view of its bytes."""
    at = 0
    while at < len(data):
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if wire == _VARINT:
            value, at = _varint(data, at)
        elif wire in (_FIXED32, _FIXED64, _BYTES):
            length = {_FIXED32: 4, _FIXED64: 8}.get(wire)
            if length is None:
                length, at = _varint(data, at)
            if at + length > len(data):
                raise ValueError(f"a field of {length} bytes, of which {len(data) - at} are there")
            value, at = data[at : at + length], at + length
        else:
            raise ValueError(f"a field of unknown wire type {wire}")
        yield number, wire, value


def _varint(data: memoryview, at: int) -> tuple[int, int]:
    """Read seven bits a byte, the low ones first; return the number and the place behind it."""
    value = shift = 0
    while shift < 64:
        byte = data[at]
        value |= (byte & 127) << shift
        at, shift = at + 1, shift + 7
        if byte < 128:
            return value, at
    raise ValueError("a number of more than 64 bits")


def _signed(value: int) -> int:
    value &= (1 << 64) - 1
    return value - (1 << 64) if value >> 63 else value
