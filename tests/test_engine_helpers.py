"""Helpers of the engine that die, clocks that jump, inputs that change: no hang, nothing wrong."""

import itertools
import threading
import time

import pytest

from miro_jax.annotate import batches, parts, work
from miro_jax.annotate.publish import Assembly, SourceChanged
from miro_jax.score import score_images
from tests.annotating import call, contents, make_pieces
from tests.scoring import Brightness as Plain
from tests.scoring import file_bytes, grey, make_folder, read_rows, score, write_csv

pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    return make_pieces(tmp_path_factory.mktemp("source") / "in", 3, 8)


@pytest.fixture(scope="module")
def whole(pieces, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole")
    call(pieces, out)
    return contents(out)


def end_of(function):
    """Run a function in a thread; return what it raised, or fail if it does not end."""
    ends = []

    def run():
        try:
            function()
            ends.append(None)
        except BaseException as error:
            ends.append(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    thread.join(60)
    assert not thread.is_alive(), "it hangs"
    return ends[0]


class Died(BaseException):
    """As SystemExit: no `except Exception` catches it."""


@pytest.mark.parametrize("error", [Died, MemoryError, StopIteration])
@pytest.mark.parametrize(
    ("module", "name", "calls"),
    [
        (work, "cut", 1),  # of the thread that reads
        (batches, "_stack", 3),  # of the one that makes batches
        (batches, "_load", 5),  # of those that decode
        (parts, "save_part", 2),  # of the one that writes
        (Assembly, "publish", 1),  # likewise
        (work, "compute", 2),  # of the main thread
    ],
)
def test_a_helper_that_dies_ends_the_run_at_once(
    pieces, whole, tmp_path, monkeypatch, module, name, calls, error
):
    inner, count = getattr(module, name), itertools.count()
    threads = threading.active_count()

    def dies(*arguments, **keywords):
        if next(count) == calls:
            raise error("helper")
        return inner(*arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, dies)
        ended = end_of(lambda: call(pieces, tmp_path / "out"))
    assert isinstance(ended, error | RuntimeError)  # what a generator makes of StopIteration
    assert threading.active_count() <= threads
    call(pieces, tmp_path / "out")
    assert contents(tmp_path / "out") == whole


def test_a_clock_that_jumps_changes_nothing(pieces, whole, tmp_path, monkeypatch):
    jumps = itertools.cycle([0.0, 4e9, -1e9, 1.7e9])
    monkeypatch.setattr(time, "time", lambda: next(jumps))
    call(pieces, tmp_path / "set")
    assert contents(tmp_path / "set") == whole
    facts = score(make_folder(tmp_path / "in", 9), tmp_path / "a.csv")
    assert facts["num_scored"] == 9 and 0 < facts["seconds"] < 60


@pytest.mark.parametrize("kind", ["table", "folder"])
def test_an_input_of_score_that_changes_while_it_is_read_makes_no_table(tmp_path, kind):
    folder = make_folder(tmp_path / "in", 6)
    rows = [("path", "caption"), *((f"{i:03d}.png", f"text {i}") for i in range(6))]
    source = write_csv(folder / "t.csv", rows) if kind == "table" else folder

    class Meddling(Plain):
        def encode(self, prepared):
            if kind == "table":
                write_csv(source, rows[:-1])
            else:
                (folder / "005.png").write_bytes(file_bytes(grey(5, 99, 99)))
            return super().encode(prepared)

    with pytest.raises(SourceChanged, match="changed while it was read"):
        score_images(source, [Meddling()], tmp_path / "a.csv", batch_size=4, num_threads=1)
    assert not (tmp_path / "a.csv").exists()
    with pytest.raises(ValueError, match="belongs to another request"):
        score(source, tmp_path / "a.csv", [Plain()])
    assert score(source, tmp_path / "b.csv", [Plain()])["num_scored"] == len(
        read_rows(tmp_path / "b.csv")
    )
