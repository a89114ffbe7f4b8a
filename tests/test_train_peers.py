"""Processes of a run that watch each other, with a store that stands for JAX's."""

import contextlib
import signal
import threading
import time

import pytest

from miro_jax.cli import signals
from miro_jax.train import peers


class Store:
    """What the processes of a run write; `dead` stands for process 0 that is gone."""

    def __init__(self):
        self.values, self.dead = {}, False

    def key_value_set(self, key, value, _allow_overwrite):
        if self.dead:
            raise RuntimeError("UNAVAILABLE: connection refused\nmore")
        self.values[key] = value

    def key_value_dir_get(self, _prefix):
        return list(self.values.items())


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(peers, "SECONDS_BETWEEN_LOOKS", 0.005)


def start(store, index, said, timeout=0.2):
    ended = threading.Event()
    thread = threading.Thread(
        target=peers.watch, args=(store, index, 2, timeout, ended, said.append), daemon=True
    )
    thread.start()
    return thread, ended


@pytest.mark.over_a_second
def test_processes_that_count_stay_and_one_that_stops_is_named():
    store, said = Store(), ([], [])
    first, second = (start(store, index, said[index], timeout=1.0) for index in range(2))
    time.sleep(1.5)
    assert said == ([], [])
    second[1].set()  # as if it were killed
    first[0].join(30)
    assert said == (["process 1 of this run has not answered for 1 s"], [])


def test_one_that_never_began_is_named():
    said = []
    start(Store(), 0, said)[0].join(30)
    assert said == ["process 1 of this run has not answered for 0.2 s"]


def test_one_that_is_done_is_not_waited_for():
    store, said = Store(), []
    store.values[f"{peers.KEY}/1"] = peers.DONE
    thread, ended = start(store, 0, said, timeout=0.05)
    thread.join(0.5)
    assert thread.is_alive() and said == []
    ended.set()
    thread.join(30)


def test_one_that_fails_is_not_waited_for():
    store, said = Store(), []
    store.values[f"{peers.KEY}/1"] = peers.FAILING
    start(store, 0, said, timeout=1000)[0].join(30)
    assert said == ["process 1 of this run failed, see what it printed"]


def test_one_that_a_signal_stops_before_its_loop_is_not_waited_for(monkeypatch):
    two, exits = TwoProcesses(monkeypatch), []
    monkeypatch.setattr(peers.atexit, "register", lambda _, status: exits.append(status))
    two.index.value = 1
    with pytest.raises(signals.Stopped), peers.watched(1000):
        raise signals.Stopped(signal.SIGTERM)
    assert exits == [143]  # and not after the others, which JAX waits for
    said = []
    start(two.store, 0, said, timeout=1000)[0].join(30)
    assert said == ["process 1 of this run was stopped by a signal"]


def test_a_store_that_is_gone_is_process_0():
    store, said = Store(), []
    store.dead = True
    start(store, 1, said)[0].join(30)
    assert said == ["process 0 of this run does not answer (UNAVAILABLE: connection refused)"]


def test_one_process_alone_starts_no_thread():
    before = threading.active_count()
    with peers.watched(1.0):
        assert threading.active_count() == before


class TwoProcesses:
    """Two threads that stand for processes; each is asked what it does in `together`."""

    def __init__(self, monkeypatch):
        self.store, self.said, self.left = Store(), [], []
        self.index = threading.local()
        monkeypatch.setattr(peers.distributed.global_state, "client", self.store)
        monkeypatch.setattr(peers.jax, "process_count", lambda: 2)
        monkeypatch.setattr(peers.jax, "process_index", lambda: self.index.value)
        monkeypatch.setattr(peers, "note", self.said.append)
        monkeypatch.setattr(peers, "_leave", self.left.append)
        monkeypatch.setattr(peers.atexit, "register", lambda *_: None)

    def start(self, index, work):
        def run():
            self.index.value = index
            with contextlib.suppress(OSError):
                peers.first_alone(work, 30.0)

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread


def test_one_process_makes_what_the_others_wait_for(monkeypatch):
    two, made, may_end = TwoProcesses(monkeypatch), [], threading.Event()
    other = two.start(1, lambda: made.append(1))
    while not two.said:
        time.sleep(0.005)
    first = two.start(0, lambda: (may_end.wait(30), made.append(0)))
    assert other.is_alive() and made == []
    may_end.set()
    first.join(30)
    other.join(30)
    assert not other.is_alive() and made == [0] and two.left == []
    assert two.said == ["process 1 waits for process 0, which makes the records"]


def test_processes_leave_one_that_cannot_make_it(monkeypatch):
    two = TwoProcesses(monkeypatch)
    two.start(1, None)

    def fail():
        raise OSError("the disk is full")

    two.start(0, fail).join(30)
    while not two.left:
        time.sleep(0.005)
    assert two.left == ["process 0 of this run failed, see what it printed"]
    two.store.values[f"{peers.ONCE}/the records"] = ""  # its thread ends


def test_one_process_alone_makes_it_itself():
    made = []
    peers.first_alone(lambda: made.append(0), 30.0)
    assert made == [0]


def test_one_that_the_others_wait_for_is_named_once_with_what_it_is_at(monkeypatch):
    said = []
    monkeypatch.setattr(peers, "note", said.append)
    positions = [peers.Position(behind_seconds=0.05) for _ in range(2)]
    looks = [peers.Behind(index, positions[index]) for index in range(2)]

    def look(seconds):
        for index, look in enumerate(looks):
            other = positions[1 - index]
            look.look(1 - index, f"7 {other.number} {other.what}", seconds)

    positions[1].at("input")
    positions[0].at("input")
    positions[0].at("steps")
    for seconds in (0.0, 0.04, 0.06, 0.2, 5.0):
        look(seconds)
    waits = "while process 0 waits for it"
    assert said == [f"process 1 is behind: at input for 0 s, {waits}"]
    positions[1].at("steps")  # it comes up: nobody waits
    look(6.0)
    positions[1].at("input")  # now it is process 0 that others wait for
    look(100.0)
    look(100.1)
    assert said[1:] == ["process 0 is behind: at steps for 0 s, while process 1 waits for it"]


def test_what_process_0_fetches_the_others_do_after_it(monkeypatch):
    two, made, may_end = TwoProcesses(monkeypatch), [], threading.Event()

    def start(index, work):
        def run():
            two.index.value = index
            made.append(peers.first("the weights", work))

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        return thread

    other = start(1, lambda: "found")
    while not two.said:
        time.sleep(0.005)
    assert made == [] and two.said == ["process 1 waits for process 0, which makes the weights"]
    start(0, lambda: may_end.wait(30) and "fetched")
    may_end.set()
    other.join(30)
    assert made == ["fetched", "found"]


def test_the_statuses_of_those_who_leave(monkeypatch):
    left = []
    monkeypatch.setattr(peers.processes, "leave", lambda what, status: left.append(status))
    peers._leave("process 1 of this run has not answered for 20 s")
    peers._leave("process 1 of this run failed, see what it printed")
    assert left == [75, 1]


@pytest.mark.parametrize("kind", [RuntimeError, ValueError])
def test_a_collective_that_breaks_off_is_the_fault_of_another_process(kind):
    store = Store()
    error = kind("UNKNOWN: Gloo AllGather failed: Connection reset by peer\nmore")
    told = peers._of_others(error, store)
    assert peers.status_of(told) == 75 and "is gone (UNKNOWN: Gloo AllGather failed" in str(told)
    store.values[f"{peers.KEY}/1"] = peers.FAILING
    told = peers._of_others(error, store)
    assert peers.status_of(told) == 1 and "process 1 of this run failed" in str(told)
    assert peers.status_of(peers._of_others(error, None)) == 75  # the store is gone, too
    assert peers._of_others(kind("config.train.batch_size must be"), store) is None
    assert peers._of_others(OSError("gloo"), store) is None
