"""How far a job is: a bar on a terminal, lines in a log file."""

import io

from miro_jax.cli.progress import Progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


class Clock:
    seconds = 0.0

    def __call__(self):
        return self.seconds


def test_a_log_file_gets_a_line_each_minute():
    file, clock = io.StringIO(), Clock()
    with Progress("annotate", "images", stream=file, clock=clock) as progress:
        for second in range(1, 201):
            clock.seconds = second
            progress.update(5, f"piece {second // 50 + 1}")
            if second == 100:
                progress.total = 2000
    assert file.getvalue().splitlines() == [
        "annotate piece 1: 50 images, 5.0 a second",
        "annotate piece 2: 350 images, 5.0 a second",
        "annotate piece 3: 650 of 2,000 images, 5.0 a second, 04:30 left",
        "annotate piece 4: 950 of 2,000 images, 5.0 a second, 03:30 left",
        "annotate piece 5: 1,000 of 2,000 images, 5.0 a second, 03:20 left",
    ]


def test_what_was_done_before_does_not_count_as_quick():
    clock = Clock()
    progress = Progress("score", "images", 1000, done=900, stream=io.StringIO(), clock=clock)
    progress.update(0)
    clock.seconds = 10.0
    progress.update(20)
    assert progress.line() == "score: 920 of 1,000 images, 2.0 a second, 00:40 left"


def test_the_pace_of_slow_work_is_in_seconds():
    clock = Clock()
    progress = Progress("train", "steps", 10, stream=io.StringIO(), clock=clock)
    progress.update(0)
    clock.seconds = 40.0
    progress.update(5)
    assert progress.line() == "train: 5 of 10 steps, 8.0 s each, 00:40 left"


def test_a_job_that_has_not_begun_has_a_line():
    progress = Progress("score", "images", 10, stream=io.StringIO(), clock=Clock())
    assert progress.line("here") == "score here: 0 of 10 images, 0.0 a second"


def test_a_terminal_gets_a_bar_with_the_time_left():
    file = Terminal()
    with Progress("annotate", "images", 4, stream=file) as progress:
        progress.update(1, "piece 1 of 2")
        progress.total = 8
        progress.update(3, "piece 2 of 2")
    last = file.getvalue().split("\r")[-1]
    assert last.startswith("annotate piece 2 of 2:  50%") and "4/8" in last


def test_the_time_before_the_first_unit_is_done_does_not_count():
    """The first step compiles for a minute; the others take a second each."""
    file, clock = io.StringIO(), Clock()
    with Progress("train", "steps", 301, stream=file, clock=clock) as progress:
        clock.seconds = 60.0
        progress.update(1)
        for second in range(1, 101):
            clock.seconds = 60.0 + second
            progress.update(1)
        assert progress.line() == "train: 101 of 301 steps, 1.0 a second, 03:20 left"
    assert file.getvalue().splitlines()[:2] == [
        "train: 1 of 301 steps",
        "train: 61 of 301 steps, 1.0 a second, 04:00 left",
    ]


def test_a_job_of_one_update_ends_with_its_pace():
    file, clock = io.StringIO(), Clock()
    with Progress("annotate", "images", 50, stream=file, clock=clock) as progress:
        clock.seconds = 5.0
        progress.update(50)
    assert file.getvalue() == "annotate: 50 of 50 images, 10.0 a second\n"


def test_the_bar_does_not_count_the_first_unit_either(monkeypatch):
    seconds = [0.0]
    monkeypatch.setattr("tqdm.std.time", lambda: seconds[0])
    file = Terminal()
    with Progress("train", "steps", 301, stream=file) as progress:
        progress._bar._time = lambda: seconds[0]
        seconds[0] = 100.0
        progress.update(1)
        for second in range(1, 101):
            seconds[0] = 100.0 + second
            progress.update(1)
        last = file.getvalue().split("\r")[-1]
        assert "101/301" in last and "<03:20" in last
