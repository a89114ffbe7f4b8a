"""Prompt files: plain lines, JSON lines, and what is wrong with them."""

import pytest

from miro_jax.sample.request import Prompt, read_prompts


def write(tmp_path, text, name="prompts.txt"):
    path = tmp_path / name
    path.write_bytes(text.encode("utf-8") if isinstance(text, str) else text)
    return path


def test_plain_lines_are_prompts_and_empty_ones_are_skipped(tmp_path):
    path = write(tmp_path, '\ufeffa red circle\r\n\n  "two" squares  \n{"prompt": 1}\u2028x\n')
    assert [p.text for p in read_prompts(path)] == [
        "a red circle",
        '"two" squares',
        '{"prompt": 1}\u2028x',
    ]


def test_json_lines_say_levels_and_seeds(tmp_path):
    path = write(
        tmp_path,
        '{"prompt": "a", "targets": {"beauty": 0.5, "count": null}, "seed": 7}\n\n'
        '{"prompt": "", "negative_targets": {"beauty": 1}, "tag": "colors", "include": []}\n',
        "p.jsonl",
    )
    assert read_prompts(path) == (
        Prompt("a", {"beauty": 0.5, "count": None}, {}, 7),
        Prompt("", {}, {"beauty": 1}, None),
    )


@pytest.mark.parametrize(
    "line, said",
    [
        ("a red circle", "line 2 of .*p.jsonl: no JSON"),
        ('["a"]', r'line 2 of .*: must read {"prompt": "...", ...}; got \["a"\]'),
        ('{"text": "a"}', "must read"),
        ('{"prompt": "a", "target": {}}', "unknown key 'target'; did you mean 'targets'?"),
        ('{"prompt": "a", "seed": "7"}', "seed must be an integer; got '7'"),
        ('{"prompt": "a", "seed": true}', "seed must be an integer; got True"),
        ('{"prompt": "a", "targets": {"b": "1"}}', "targets must be an object of reward: level"),
        ('{"prompt": "a", "targets": [1]}', "targets must be an object"),
    ],
)
def test_a_line_that_cannot_be_understood_is_named(tmp_path, line, said):
    path = write(tmp_path, '{"prompt": "fine"}\n' + line, "p.jsonl")
    with pytest.raises(ValueError, match=said):
        read_prompts(path)


def test_files_without_prompts_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.txt must be a file of prompts"):
        read_prompts(tmp_path / "none.txt")
    with pytest.raises(ValueError, match="must hold at least one prompt"):
        read_prompts(write(tmp_path, "\n \n"))
    with pytest.raises(ValueError, match="must be UTF-8 text"):
        read_prompts(write(tmp_path, b"\xff\xfe\x00"))
