"""Signals that come while launch/watch.py works in this process, at moments that we choose."""

import pathlib
import signal
import subprocess
import sys
import time
import types

sys.path.insert(0, str(pathlib.Path(__file__).parent.parent / "launch"))

import watch


class SignalledAsItGoes:
    def __del__(self):
        signal.raise_signal(signal.SIGTERM)


def test_a_signal_that_came_where_nothing_can_be_raised_comes_once_more(monkeypatch):
    made = []

    class Lost:
        def __init__(self, options, cluster, ledger):
            self.ledger, self.step = types.SimpleNamespace(seconds=0), 0

        def watch(self):
            SignalledAsItGoes()
            made.append("went on")
            time.sleep(60)
            made.append("was not stopped")

        def delete(self):
            made.append("deleted")

        find_step = say = lambda *_: None

    monkeypatch.setattr(watch, "Watcher", Lost)
    before = signal.getsignal(signal.SIGTERM), sys.unraisablehook
    assert watch.keep_alive(None, None, None) == 128 + signal.SIGTERM
    assert made == ["went on", "deleted"]
    assert (signal.getsignal(signal.SIGTERM), sys.unraisablehook) == before


class Scripted:
    """A watcher without machines, which deletes as any."""

    def __init__(self, options, cluster, ledger):
        call, phase = lambda verb: (0, "", ""), lambda: (watch.Phase.GONE, "nothing")
        self.options, self.ledger = options, types.SimpleNamespace(seconds=0, clear=lambda: None)
        self.cluster, self.step = types.SimpleNamespace(call=call, phase=phase), 0

    delete = watch.Watcher.delete
    find_step = say = pay = lambda *_: None


def test_a_signal_that_came_while_machines_were_deleted_counts_when_they_are(monkeypatch):
    made = []

    class Watcher(Scripted):
        def watch(self):
            self.cluster.call = lambda verb: (signal.raise_signal(signal.SIGINT), "", "")
            self.delete()
            made.append("made new ones")

    monkeypatch.setattr(watch, "Watcher", Watcher)
    assert watch.keep_alive(None, None, None) == 128 + signal.SIGINT and not made


def test_a_signal_at_the_end_of_a_complete_run_changes_nothing(monkeypatch):
    class Watcher(Scripted):
        def watch(self):
            self.cluster.call = lambda verb: (signal.raise_signal(signal.SIGTERM), "", "")

        def find_step(self):
            signal.raise_signal(signal.SIGTERM)

    monkeypatch.setattr(watch, "Watcher", Watcher)
    assert watch.keep_alive(None, None, None) == watch.DONE


def test_a_signal_while_the_newest_checkpoint_is_looked_for_deletes_machines_that_are_there(
    monkeypatch,
):
    calls, steps = [], iter([signal.SIGTERM])

    def last_step(workdir):
        if number := next(steps, None):
            signal.raise_signal(number)

    gone = types.SimpleNamespace(
        call=lambda verb: calls.append(verb) or (0, "", ""),
        phase=lambda: (watch.Phase.GONE, "nothing"),
    )
    monkeypatch.setattr(watch, "last_step", last_step)
    options = types.SimpleNamespace(workdir="gs://bucket/run", name="miro", poll_seconds=0)
    ledger = types.SimpleNamespace(seconds=0)
    assert watch.keep_alive(options, gone, ledger) == 128 + signal.SIGTERM and "delete" in calls


def test_programs_of_a_deletion_are_not_ended_by_the_signals_that_it_holds():
    with watch.holding_signals():
        status = pathlib.Path("/proc/self/status").read_text()
        child = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True)
    (blocked,) = [line for line in child.stdout.splitlines() if line.startswith("SigBlk")]
    assert blocked in status
    for number in watch.ENDING:
        assert int(blocked.split()[1], 16) & 1 << (number - 1)
