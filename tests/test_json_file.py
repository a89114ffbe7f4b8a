import json
import os
import socket

import pytest

from miro_jax.data import json_file
from miro_jax.data.regular_file import open_regular, read_regular

SCHEMA = {"rewards": [str], "num_bins": int, "edges": [[float]], "note?": (str, None)}
GOOD = {"rewards": ["clip"], "num_bins": 4, "edges": [[0, 0.5]]}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "no valid JSON"),
        ("{", "no valid JSON"),
        ("nul", "no valid JSON"),
        ('{"a": 1} 2', "no valid JSON"),
        ("[" * 100_000, "nested too deeply"),
        ("[" * 100 + "]" * 100, "nested too deeply"),
        ('{"a":' * 100_000, "nested too deeply"),
        ('{"a": [1, NaN]}', r"a\[1\] must be a finite number; got nan"),
        ("1e999", "its value must be a finite number; got inf"),
        ("-Infinity", "finite"),
        ("9" * 5000, "no valid JSON"),
        (b"\xff\xfe\xfd", "no valid JSON"),
        (b'"\xff"', "no valid JSON"),
    ],
)
def test_what_is_no_json_is_refused_naming_the_file(text, problem):
    with pytest.raises(ValueError, match=rf"^bins.json.*{problem}"):
        json_file.parse_json(text, "bins.json")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
def test_every_encoding_of_json_is_read(encoding):
    assert json_file.parse_json('{"a": "é"}'.encode(encoding), "a.json") == {"a": "é"}


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"num_bins": 64.0}, "num_bins must be an integer; got 64.0"),
        ({"num_bins": True}, "num_bins must be an integer; got true"),
        ({"num_bins": "4"}, 'num_bins must be an integer; got "4"'),
        ({"rewards": "clip"}, 'rewards must be a list; got "clip"'),
        ({"rewards": 3}, "rewards must be a list; got 3"),
        ({"rewards": ["clip", None]}, r"rewards\[1\] must be a string; got null"),
        ({"edges": [[0.5], 1]}, r"edges\[1\] must be a list; got 1"),
        ({"edges": [[True]]}, r"edges\[0\]\[0\] must be a number; got true"),
        ({"note": 1}, "note must be a string or null; got 1"),
    ],
)
def test_the_first_entry_of_another_type_is_named(change, problem):
    with pytest.raises(ValueError, match=f"^bins.json: {problem}"):
        json_file.parse_json(json.dumps(GOOD | change), "bins.json", SCHEMA)


def test_a_missing_key_is_named_and_further_keys_are_allowed():
    json_file.check_fields(GOOD | {"written_later": 1}, SCHEMA, "bins.json")
    with pytest.raises(ValueError, match="bins.json: rewards is missing"):
        json_file.check_fields({"num_bins": 4}, SCHEMA, "bins.json")
    with pytest.raises(ValueError, match="a.b must be a list; got {}"):
        json_file.check_fields({"a": {"b": {}}}, {str: {str: [int]}}, "file")
    with pytest.raises(ValueError, match="it must be an object; got 5"):
        json_file.check_fields(5, SCHEMA, "file")


def test_a_key_that_stands_twice_is_refused_where_asked():
    assert json_file.parse_json('{"a": 1, "a": 2}', "file") == {"a": 2}
    with pytest.raises(ValueError, match="a key stands twice"):
        json_file.parse_json('{"a": 1, "a": 2}', "file", doubles=False)


def test_numbers_that_are_not_finite_are_never_written():
    assert json.loads(json_file.dump_json({"a": [1.5, "é"]}, indent=1)) == {"a": [1.5, "é"]}
    with pytest.raises(ValueError, match=r"a\[1\]\.b must be a finite number; got nan"):
        json_file.dump_json({"a": [1, {"b": float("nan")}]})


def test_a_file_that_is_too_large_is_refused_unread(tmp_path, monkeypatch):
    path = tmp_path / "config.json"
    path.write_text('{"a": 1}')
    assert json_file.read_json(path, {"a": int}) == {"a": 1}
    monkeypatch.setattr(json_file, "MOST_BYTES", 4)
    with pytest.raises(ValueError, match="config.json must hold at most 4 bytes"):
        json_file.read_json(path)


def test_pipes_sockets_devices_and_folders_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "pipe")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket"))
        for name, kind in {
            "pipe": "a named pipe",
            "link": "a named pipe",
            "socket": "a socket",
            ".": "a folder",
            "/dev/zero": "a device",
        }.items():
            with pytest.raises(ValueError, match=f"must be a regular file; it is {kind}"):
                open_regular(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "absent", 1)
    with pytest.raises(FileNotFoundError):
        json_file.read_json(tmp_path / "absent")
