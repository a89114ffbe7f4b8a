"""Names from strangers reach terminals and logs with their controls shown, not obeyed."""

import io
import logging

import pytest

from miro_jax.cli import exit as ends
from miro_jax.cli import run_folder
from miro_jax.cli.progress import Progress
from miro_jax.data.printable import printable
from tests import training

EVIL = "a\x1b[2J\x1b]0;owned\x07\u202egnp.exe\x9b31m\r\u2028b"
SHOWN = r"a\x1b[2J\x1b]0;owned\x07\u202egnp.exe\x9b31m\r\u2028b"


def test_each_control_is_shown():
    assert printable(EVIL) == SHOWN
    assert printable("a\n\tb") == r"a\n\tb" and printable("a\n\tb", lines=True) == "a\n\tb"
    assert printable("\ud800x\U000e0041\ufeff") == r"\ud800x\U000e0041\ufeff"
    for code in (*range(32), *range(127, 160)):
        assert printable(chr(code)).startswith("\\"), hex(code)


@pytest.mark.parametrize("text", ["héllo 你好", "می\u200cخواهم", "👩\u200d🎨", "a  b", r"c:\new"])
def test_words_of_any_language_stay(text):
    assert printable(text) == text


def test_results_and_errors_are_clean_on_a_terminal(capsys):
    ends.say(f"{EVIL}\nsecond")
    assert ends.fail("miro", ValueError(EVIL + "\nmore"), 2) == 2
    said = capsys.readouterr()
    assert said.out == f"{SHOWN}\nsecond\n"
    assert "\x1b" not in said.err and "\u202e" not in said.err and said.err.count("\n") == 1


def test_results_reach_a_stream_of_ascii(monkeypatch):
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr("sys.stdout", stream)
    ends.say("été")
    assert stream.buffer.getvalue() == b"\\xe9t\\xe9\n"


def test_progress_is_clean():
    stream = io.StringIO()
    with Progress("annotate", "images", stream=stream) as progress:
        progress.update(3, EVIL)
    assert "\x1b" not in stream.getvalue() and f"annotate {SHOWN}: 3 images" in stream.getvalue()


def test_the_log_of_a_run_is_clean_and_no_name_forges_a_line(tmp_path):
    run_folder.open_folder(training.tiny(), tmp_path, "train")
    logging.getLogger("miro_jax").warning("%s", EVIL + "\n2026-01-01 INFO all is well")
    text = (tmp_path / "log.txt").read_text()
    assert SHOWN in text and "\n2026-01-01 INFO" not in text


def test_warnings_without_a_handler_are_clean(capsys, monkeypatch):
    log = logging.getLogger("miro_jax")
    monkeypatch.setattr(log, "handlers", [])
    monkeypatch.setattr(log, "propagate", False)
    assert ends.run("miro", lambda: None, lambda _: log.warning("%s", EVIL)) == 0
    assert capsys.readouterr().err == f"{SHOWN}\n"
