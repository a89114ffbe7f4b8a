"""Prompt files: plain lines, JSON lines, and what is wrong with them."""

import os

import pytest

from miro_jax.sample.request import Prompt, make_request, read_prompts


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
        ("a red circle", "line 2 of .*p.jsonl is no valid JSON"),
        ('["a"]', r'line 2 of .*: it must be an object; got \["a"\]'),
        ('{"text": "a"}', "line 2 of .*: prompt is missing"),
        ('{"prompt": ["a"]}', r'line 2 of .*: prompt must be a string; got \["a"\]'),
        ('{"prompt": "a", "targets": {"b": 1, "b": 0}}', "line 2 .*: a key stands twice"),
        ('{"prompt": "a", "target": {}}', "line 2 .*unknown key 'target'; did you mean 'targets'?"),
        ('{"prompt": "a", "seed": "7"}', 'line 2 .*seed must be an integer or null; got "7"'),
        ('{"prompt": "a", "seed": true}', "seed must be an integer or null; got true"),
        ('{"prompt": "a", "targets": {"b": "1"}}', 'targets must be an object .*got {"b": "1"}'),
        ('{"prompt": "a", "targets": [1]}', "targets must be an object"),
        ('{"prompt": "a", "targets": {"b": NaN}}', "line 2 .*targets.b must be a finite number"),
        ("[" * 100_000, "line 2 of .*nested too deeply"),
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


@pytest.mark.parametrize(
    "name, text",
    [
        ("anime.json", '[\n"a fox",\n"a cat"\n]\n'),
        ("anime.JSON", '[{"prompt": "a fox"}, "a cat"]'),
        ("p.JSONL", '{"prompt": "a fox"}\n{"prompt": "a cat"}\n'),
        ("p.ndjson", '"a fox"\n{"prompt": "a cat"}\n'),
        ("p.txt", "a fox\na cat"),
    ],
)
def test_each_form_of_a_prompt_file_is_read_as_what_it_is(tmp_path, name, text):
    assert read_prompts(write(tmp_path, text, name)) == (Prompt("a fox"), Prompt("a cat"))


@pytest.mark.parametrize(
    "name, text, said",
    [
        ("parti.tsv", "Prompt\tCategory\n", "parti.tsv must be .*tables are not read"),
        ("p.json", '{"prompt": "a"}', "p.json: it must be a list"),
        ("p.json", '["a", {"prompt": 1}]', "entry 2 of .*p.json: prompt must be a string; got 1"),
        ("p.json", '["\\ud800"]', "entry 1 of .*p.json: a prompt must be whole characters"),
        ("p.jsonl", '{"prompt": "\\udc00 a"}', "line 1 of .*: a prompt must be whole characters"),
        ("p.json", "[]", "must hold at least one prompt"),
        ("p.json", "", "p.json is no valid JSON"),
        ("p.txt", "version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        ("p.jsonl", "version https://git-lfs.github.com/spec/v1\noid", "a Git LFS pointer"),
        ("p.txt", "<!DOCTYPE html>\n<html>", "it is a web page"),
        ("p.txt", '{"prompt": "a"}\n{"prompt": "b"}\n', "holds JSON in its lines.*jsonl"),
        ("p.txt", "a\0b", "it holds a zero character"),
        ("p.yaml", "- a\n- b\n", ".yaml files are not read"),
        ("p.txt.gz", "x", ".gz files are not read"),
    ],
)
def test_other_files_are_refused_by_name(tmp_path, name, text, said):
    with pytest.raises(ValueError, match=said):
        read_prompts(write(tmp_path, text, name))


@pytest.mark.parametrize(
    "changes",
    [{"targets": {"x": 1.0}}, {"seed": -1}, {"targets": {"beauty": 1.0, "beauty@shapes1": 0.2}}],
)
def test_a_prompt_that_cannot_be_sampled_is_named(changes):
    prompts = [Prompt("a fox"), Prompt("a cat", **changes)]
    with pytest.raises(ValueError, match="^prompt 2, 'a cat': "):
        make_request(("beauty",), prompts)


def test_a_named_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "p.txt")
    with pytest.raises(ValueError, match="p.txt must be a regular file; it is a named pipe"):
        read_prompts(tmp_path / "p.txt")
