"""Examples as TensorFlow Datasets writes them, read by protobuf without TensorFlow.

An example is a protocol buffer: a map from a name such as `captions/text` to a list of bytes, of
floats or of integers. Its messages are declared here; protobuf's own parser reads them.

Source: tensorflow/core/example/{example,feature}.proto.
"""

from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message, message_factory

_PACKAGE = "miro_jax.example"
_FIELD = descriptor_pb2.FieldDescriptorProto
# Message -> its fields as (name, number, type, whether it repeats); a message's name as its type.
_MESSAGES = {
    "BytesList": [("value", 1, _FIELD.TYPE_BYTES, True)],
    "FloatList": [("value", 1, _FIELD.TYPE_FLOAT, True)],
    "Int64List": [("value", 1, _FIELD.TYPE_INT64, True)],
    "Feature": [
        ("bytes_list", 1, "BytesList", False),
        ("float_list", 2, "FloatList", False),
        ("int64_list", 3, "Int64List", False),
    ],
    # On the wire a map is a list of its entries.
    "Entry": [("key", 1, _FIELD.TYPE_STRING, False), ("value", 2, "Feature", False)],
    "Features": [("feature", 1, "Entry", True)],
    "Example": [("features", 1, "Features", False)],
}


def _declare() -> Any:
    """Return the class of an example."""
    file = descriptor_pb2.FileDescriptorProto(
        name="miro_jax/example.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        declared = file.message_type.add(name=name)
        for field, number, kind, repeats in fields:
            label = _FIELD.LABEL_REPEATED if repeats else _FIELD.LABEL_OPTIONAL
            added = declared.field.add(name=field, number=number, label=label)
            if isinstance(kind, str):
                added.type, added.type_name = _FIELD.TYPE_MESSAGE, f".{_PACKAGE}.{kind}"
            else:
                added.type = kind
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.Example"))


_Example = _declare()


def decode(data: bytes) -> dict[str, list]:
    """Read an example.

    Returns:
      name -> list of bytes, floats or integers.

    Raises:
      ValueError: the bytes are no example.
    """
    try:
        entries = _Example.FromString(data).features.feature
    except message.DecodeError as error:
        raise ValueError(f"no example: {error}") from error
    return {entry.key: _values(entry.value) for entry in entries}


def _values(feature: message.Message) -> list:
    """Return the list that a feature holds."""
    return [value for _, values in feature.ListFields() for value in values.value]
