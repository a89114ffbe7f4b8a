"""Pickles that would do harm in a machine that obeys: each is refused, none runs."""

import copy
import io
import pickle
import struct
import zipfile

import numpy as np
import pytest

from miro_jax.pretrained.weights.pickles import open_pickle


def write(tmp_path, data):
    path = tmp_path / "model.pt"
    path.write_bytes(data)
    return path


def text(value):
    return b"X" + struct.pack("<I", len(value)) + value.encode()


TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\n"
STORAGE = b"(" + text("storage") + b"ctorch\nFloatStorage\n" + text("0") + text("cpu") + b"K\x06tQ"
FACTS = b"K\x00K\x06\x85K\x01\x85\x89ccollections\nOrderedDict\n)R"
ORDERED = b"ccollections\nOrderedDict\n"
MAGIC_NUMBER = 0x1950A86A20F9469CFC6C  # of the format before zip files
HARM = b"cos\nabort\n"
LAUGHS = b"]q\x00" + b"".join(
    b"](" + b"h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(60)
)
ATTACKS = {
    "a function by REDUCE": HARM + b")R",
    "os.system": b"cos\nsystem\n" + text("true") + b"\x85R",
    "posix.system": b"cposix\nsystem\n" + text("true") + b"\x85R",
    "builtins.eval": b"cbuiltins\neval\n" + text("1") + b"\x85R",
    "Python 2's eval": b"c__builtin__\neval\n" + text("1") + b"\x85R",
    "getattr of getattr": b"cbuiltins\ngetattr\ncbuiltins\ngetattr\n" + text("x") + b"\x86R",
    "a dotted name": text("collections") + text("OrderedDict.__init__") + b"\x93",
    "a name below a module": text("torch") + text("_utils._rebuild_tensor_v2") + b"\x93",
    "a name that is no string": b"K\x01K\x02\x93",
    "numpy's scalar": b"cnumpy.core.multiarray\nscalar\n",
    "codecs": b"c_codecs\nencode\n",
    "torch.load": b"ctorch.serialization\nload\n",
    "a class of transformers": b"ctransformers\nTrainer\n",
    "extension 1": b"\x82\x01",
    "extension 2": b"\x83\x01\x00",
    "extension 4": b"\x84\x01\x00\x00\x00",
    "INST": b"(ios\nabort\n",
    "OBJ": b"(" + HARM + b"o",
    "NEWOBJ": HARM + b")\x81",
    "NEWOBJ of an allowed class": ORDERED + b")\x81",
    "NEWOBJ_EX": HARM + b")}\x92",
    "BUILD on a name": ORDERED + b"}" + text("function") + b"Nsb",
    "BUILD with slots": TENSOR + b"}" + text("__code__") + b"Ns" + b"N\x86b",
    "BUILD on a storage class": b"ctorch\nFloatStorage\n}" + text("dtype") + b"Nsb",
    "BUILD on a dict": b"}}" + text("items") + b"Nsb",
    "BUILD on nothing": b"}b",
    "a call of what is called": ORDERED + b")R)R",
    "a call of a storage class": b"ctorch\nFloatStorage\n)R",
    "a call without a tuple": ORDERED + b"]R",
    "an OrderedDict of numbers": ORDERED + b"](K\x01K\x02e\x85R",
    "an OrderedDict of harm": ORDERED + text("ab") + b"\x85R",
    "a text persistent id": b"Pharm\n",
    "a persistent id of a number": b"K\x05Q",
    "a persistent id of another kind": b"(" + text("module") + b"NNNNtQ",
    "a persistent id that is short": b"(" + text("storage") + b"ctorch\nFloatStorage\ntQ",
    "a persistent id of a dtype": b"("
    + text("storage")
    + b"ctorch\nfloat32\n"
    + text("0")
    + text("cpu")
    + b"K\x06tQ",
    "a persistent id of a missing storage": TENSOR
    + b"("
    + STORAGE.replace(text("0"), text("../../etc/passwd"))
    + FACTS
    + b"tR",
    "a storage that is too long": TENSOR
    + b"("
    + STORAGE.replace(b"K\x06", b"K\x07")
    + FACTS
    + b"tR",
    "a negative count": TENSOR
    + b"("
    + STORAGE.replace(b"K\x06", b"J\xff\xff\xff\xff")
    + FACTS
    + b"tR",
    "a tensor beyond its storage": TENSOR
    + b"("
    + STORAGE
    + FACTS.replace(b"K\x06", b"K\x07")
    + b"tR",
    "an offset beyond the storage": TENSOR
    + b"("
    + STORAGE
    + FACTS.replace(b"K\x00", b"K\x01")
    + b"tR",
    "a negative offset": TENSOR
    + b"("
    + STORAGE
    + FACTS.replace(b"K\x00", b"J\xfe\xff\xff\xff", 1)
    + b"tR",
    "a negative stride": TENSOR
    + b"("
    + STORAGE
    + FACTS.replace(b"K\x01\x85", b"J\xff\xff\xff\xff\x85")
    + b"tR",
    "a huge size": TENSOR
    + b"("
    + STORAGE
    + FACTS.replace(b"K\x06", b"\x8a\x08" + b"\xff" * 7 + b"\x7f")
    + b"tR",
    "a huge expansion": TENSOR
    + b"("
    + STORAGE
    + b"K\x00J\x00\x00\x00\x40\x85K\x00\x85\x89"
    + ORDERED
    + b")RtR",
    "a truth for a size": TENSOR + b"(" + STORAGE + FACTS.replace(b"K\x06", b"\x88") + b"tR",
    "a conjugate view": TENSOR + b"(" + STORAGE + FACTS + b"}" + text("conj") + b"\x88stR",
    "too few facts": TENSOR + b"(" + STORAGE + b"tR",
    "a tensor of a dict": TENSOR + b"(}" + FACTS + b"tR",
    "laughs": LAUGHS,
    "laughs as a key": LAUGHS.replace(b"]q\x00", b")q\x00", 1),
    "a tuple as a key": b"})Ns",
    "a key that collides": b"}\x8a\x08" + struct.pack("<q", 2**61 - 1) + b"Ns",
    "a key twice": b"}" + text("a") + b"Ns" + text("a") + b"Ns",
    "a long integer": b"\x8b" + struct.pack("<i", 17) + bytes(17),
    "an integer of negative length": b"\x8b" + struct.pack("<i", -1),
    "a string of 2^63 bytes": b"\x8d" + struct.pack("<Q", 2**63) + b"x",
    "bytes of 2^60": b"\x8e" + struct.pack("<Q", 2**60),
    "a string of negative length": b"T" + struct.pack("<i", -5),
    "broken UTF-8": b"X\x01\x00\x00\x00\xff",
    "a byte array": b"\x96" + struct.pack("<Q", 2**40),
    "an external buffer": b"\x97",
    "protocol 9": b"\x80\x09",
    "a value that was never stored": b"h\x09",
    "a value from nowhere": b"s",
    "a mark from nowhere": b"t",
    "a name without end": b"c" + b"x" * 5000,
    "an unknown opcode": b"\xfe",
    "nothing": b"",
}


def as_zip(program, **members):
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("model/data.pkl", program)
        archive.writestr("model/data/0", members.pop("storage", bytes(24)))
        for name, value in members.items():
            archive.writestr(f"model/{name}", value)
    return data.getvalue()


def as_legacy(program):
    head = [MAGIC_NUMBER, 1001, {"little_endian": True}]
    tail = pickle.dumps(["0"], 2) + struct.pack("<q", 6) + bytes(24)
    return b"".join(pickle.dumps(x, 2) for x in head) + program + tail


def program_of(attack):
    """The attack as a value beside a good tensor, so that only the attack can be refused."""
    return b"\x80\x02}(" + text("a") + TENSOR + b"(" + STORAGE + FACTS + b"tR" + text("b") + attack


def test_the_carrier_of_the_attacks_is_a_good_file(tmp_path):
    program = program_of(TENSOR + b"(" + STORAGE + FACTS + b"tR") + b"u."
    tensors = open_pickle(write(tmp_path, as_zip(program)))
    np.testing.assert_array_equal(tensors["b"].read(), np.zeros(6, np.float32))
    legacy = program.replace(b"K\x06tQ", b"K\x06NtQ")
    np.testing.assert_array_equal(
        open_pickle(write(tmp_path, as_legacy(legacy)))["b"].read(), np.zeros(6, np.float32)
    )


@pytest.mark.parametrize("name", ATTACKS)
def test_an_attack_is_refused_and_runs_nothing(tmp_path, name):
    program = program_of(ATTACKS[name]) + b"u."
    for data in (as_zip(program), as_legacy(program.replace(b"K\x06tQ", b"K\x06NtQ"))):
        path = write(tmp_path, data)
        for placeholders in (False, True):
            with pytest.raises(ValueError, match=r"model\.pt: "):
                open_pickle(path, placeholders)


def test_zip_tricks_are_refused(tmp_path):
    good = program_of(TENSOR + b"(" + STORAGE + FACTS + b"tR") + b"u."

    def refuse(data, match):
        with pytest.raises(ValueError, match=match):
            open_pickle(write(tmp_path, data))

    refuse(as_zip(good, **{"code/__torch__.py": b"x"}), "TorchScript")
    refuse(as_zip(good, byteorder=b"middle"), "byteorder")
    refuse(as_zip(good, storage=bytes(23)), "storage 0 must have 24 bytes")
    refuse(as_zip(good, **{"more/data.pkl": good}), "one data.pkl")
    refuse(as_zip(good).replace(b"model/data.pkl", b"model/date.pkl"), "one data.pkl")
    # The local header lies about the length of the names before the data.
    data = bytearray(as_zip(good))
    data[28:30] = b"\xff\xff"
    refuse(bytes(data), "cut short")
    # Two members of one name.
    twice = io.BytesIO(as_zip(good))
    with zipfile.ZipFile(twice, "a") as archive, pytest.warns(UserWarning, match="Duplicate"):
        archive.writestr("model/data/0", bytes(24))
    refuse(twice.getvalue(), "two members of one name")
    # A compressed bomb.
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("model/data.pkl", good)
        archive.writestr("model/data/0", bytes(24))
    refuse(packed.getvalue(), "not compressed")
    # Storages that lie upon each other, so that all are longer than the file.
    many = b"".join(
        text(str(i)) + TENSOR + b"(" + STORAGE.replace(text("0"), text(str(i))) + FACTS + b"tR"
        for i in range(40)
    )
    overlaid = io.BytesIO()
    with zipfile.ZipFile(overlaid, "w") as archive:
        archive.writestr("m/data.pkl", b"\x80\x02}(" + many.replace(b"K\x06", b"M\x00\x10") + b"u.")
        archive.writestr("m/data/0", bytes(4 * 4096))
        for i in range(1, 40):
            info = copy.copy(archive.getinfo("m/data/0"))
            info.filename = f"m/data/{i}"
            archive.filelist.append(info)
    refuse(overlaid.getvalue(), "larger than the file")
