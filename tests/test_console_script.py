"""The console script: a table of verbs."""

import os
import re
import subprocess
import sys
import types

import pytest

import miro_jax
from miro_jax import __main__, main
from miro_jax.cli.exit import command_of, fail


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_help_lists_every_verb_with_a_line(capsys, words):
    assert __main__.main(words) == 0
    out, err = capsys.readouterr()
    assert err == ""
    for name, verb in __main__.VERBS.items():
        assert f"\n  {name} " in out and verb.summary in out


@pytest.mark.parametrize("word", ["--version", "-V"])
def test_the_version_is_printed(capsys, word):
    assert __main__.main([word]) == 0
    assert capsys.readouterr() == (f"miro-jax {miro_jax.__version__}\n", "")


def test_without_a_verb_the_help_goes_to_stderr_with_status_2(capsys):
    assert __main__.main([]) == 2
    out, err = capsys.readouterr()
    assert out == "" and "usage: miro-jax VERB" in err


@pytest.mark.parametrize(
    "verb, near",
    [
        ("smaple", "did you mean sample"),
        ("anotate", "annotate?"),
        ("extend", "did you mean miro-jax train --stage=extend?"),
        ("studdy", "did you mean miro-jax train --stage=study?"),
    ],
)
def test_an_unknown_verb_names_near_ones_in_one_line(capsys, verb, near):
    assert __main__.main([verb, "--x"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and near in err and "export" in err


def test_the_stages_that_are_no_verbs_are_known():
    assert set(__main__.STAGES) == main.STAGES.keys() - __main__.VERBS.keys()


def test_a_verb_gets_the_arguments_after_it_and_gives_the_status(monkeypatch):
    seen = []
    stage = types.SimpleNamespace(main=lambda arguments: seen.append(arguments) or 7)
    monkeypatch.setitem(sys.modules, "miro_jax.sample.command", stage)
    assert __main__.main(["sample", "tradeoff", "--out=sample"]) == 7
    assert seen == [["tradeoff", "--out=sample"]]


@pytest.mark.parametrize("verb", __main__.VERBS)
def test_each_verb_explains_itself(capsys, verb):
    assert __main__.main([verb, "--help"]) == 0
    out, err = capsys.readouterr()
    assert "example" in out and err == ""
    assert out.count("Exit status: 0 ") == 1 and "2 a bad argument" in out and "130, 143" in out


@pytest.mark.parametrize(
    "words", ["weights list", "weights convert", "weights pull", "evaluate prompts"]
)
def test_each_verb_of_a_verb_has_examples(capsys, words):
    assert __main__.main([*words.split(), "--help"]) == 0
    assert f"\n  miro-jax {words} " in capsys.readouterr().out


@pytest.mark.parametrize("words", [*__main__.VERBS, "evaluate prompts", "evaluate --suite=parti"])
def test_each_flag_says_more_than_its_default(capsys, words):
    assert __main__.main([*words.split(), "--help"]) == 0
    text = re.sub(r"\n {10,}", "  ", capsys.readouterr().out)  # long flags have a line of their own
    flags = re.findall(r"^  (--.*)", text, re.MULTILINE)
    assert [flag for flag in flags if not re.search(r"  +(?!\(default)\S", flag)] == []


@pytest.mark.parametrize("verb", ["annotate", "sample", "score"])
def test_usage_lines_name_the_script(capsys, verb):
    assert __main__.main([verb, "--help"]) == 0
    out = capsys.readouterr().out
    assert f"miro-jax {verb} " in out and "python -m" not in out


@pytest.mark.parametrize("verb", __main__.VERBS)
def test_each_verb_answers_a_mistake_with_one_line_and_status_2(capsys, verb):
    assert __main__.main([verb, "--tpyo=1"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith(f"miro-jax {verb}: error: ")


@pytest.mark.parametrize(
    ("module", "said"),
    [
        ("miro_jax.score.__main__", "python -m miro_jax.score"),
        ("miro_jax.demo.explore", "python -m miro_jax.demo.explore"),
        ("miro_jax.__main__", "python -m miro_jax score"),
        ("pytest.__main__", "miro-jax score"),
        (None, "miro-jax score"),
    ],
)
def test_a_command_is_called_as_it_was_started(monkeypatch, module, said):
    main = types.ModuleType("__main__")
    main.__spec__ = module and types.SimpleNamespace(name=module)
    monkeypatch.setitem(sys.modules, "__main__", main)
    assert command_of("score") == said


def test_a_missing_file_is_named_in_words(capsys):
    assert fail("score", FileNotFoundError(2, "No such file or directory", "a.json"), 2) == 2
    said = "miro-jax score: error: 'a.json': No such file or directory. Check the path.\n"
    assert capsys.readouterr().err == said


def test_nobody_has_to_read_what_is_said():
    unread, ours = os.pipe()
    os.close(unread)
    code = "from miro_jax.cli.exit import say; say('a'); say('b')"
    done = subprocess.run([sys.executable, "-c", code], stdout=ours, stderr=subprocess.PIPE)
    os.close(ours)
    assert (done.returncode, done.stderr) == (0, b"")


def test_the_package_is_the_script():
    done = subprocess.run(
        [sys.executable, "-m", "miro_jax", "--help"], capture_output=True, text=True, check=True
    )
    assert done.stdout == __main__._help()


@pytest.mark.parametrize("words", [["--help"], *([verb, "--help"] for verb in __main__.VERBS)])
def test_help_needs_no_jax(words):
    program = "import sys; from miro_jax.__main__ import main; status = main(sys.argv[1:]); "
    program += "print('jax' in sys.modules, status, file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True, check=True
    )
    assert done.stderr == "False 0\n" and "usage" in done.stdout
