"""Processes find each other before JAX does: who is missing, and who does not fit, is named."""

import json
import socket
import threading
import time

import pytest

from miro_jax.cli import processes, roll_call
from miro_jax.cli.cluster import Cluster
from miro_jax.cli.exit import TryAgain


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(roll_call, "SECONDS_BETWEEN_TRIES", 0.02)


@pytest.fixture
def port():
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class Call:
    """A call of one process in a thread of its own: its result or its error, and what it said."""

    def __init__(self, port, index, count, seconds=30.0, jax="1", hosts=()):
        self.said, self.result = [], None
        cluster = Cluster("127.0.0.1", port, count, index, hosts)
        me = {"host": f"host-{index}", "jax": jax}

        def run():
            try:
                self.result = roll_call.call(cluster, me, seconds, self.said.append)
            except Exception as error:
                self.result = error

        self.thread = threading.Thread(target=run, daemon=True)
        self.thread.start()

    def end(self):
        self.thread.join(60)
        assert not self.thread.is_alive()
        return self.result


def test_all_learn_the_hosts_of_all_in_whatever_order_they_come(port):
    calls = [Call(port, index, 4) for index in (2, 3, 0, 1)]
    assert [call.end() for call in calls] == [[f"host-{i}" for i in range(4)]] * 4


def test_the_processes_of_this_host_are_counted(monkeypatch):
    assert processes.count_here() == 1  # where nobody was called
    here = socket.gethostname()
    monkeypatch.setattr(processes, "_hosts", [here, f"not-{here}", here])
    assert processes.count_here() == 2


def test_those_who_are_missing_are_named_to_all_who_are_there(port):
    hosts = ("a", "b", "c", "d")
    began = time.monotonic()
    calls = [Call(port, 2, 4, 30, hosts=hosts), Call(port, 0, 4, 0.5, hosts=hosts)]
    for error in [call.end() for call in calls]:
        assert isinstance(error, TryAgain)
        assert "missing are 2 of 4 processes: 1 (b), 3 (d)" in str(error)
    assert time.monotonic() - began < 15


def test_process_0_that_is_missing_is_named_with_the_cause(port):
    error = Call(port, 1, 2, 0.3, hosts=("a", "b")).end()
    assert isinstance(error, TryAgain)
    assert f"process 0 (a) must answer process 1 at 127.0.0.1:{port} within 0.3 s" in str(error)
    assert "got: Connection refused" in str(error) and "8476" in str(error)


@pytest.mark.over_a_second
def test_it_is_said_who_is_waited_for(port, monkeypatch):
    monkeypatch.setattr(roll_call, "SECONDS_UNTIL_NOTE", 0.1)
    first = Call(port, 0, 3, 1.0, hosts=("a", "b", "c"))
    first.end()
    assert first.said == ["process 0 waits for 2 of 3 processes: 1 (b), 2 (c)"]
    other = Call(port, 1, 3, 0.5)
    other.end()
    assert other.said == [f"process 1 waits for process 0 at 127.0.0.1:{port}: Connection refused"]


@pytest.mark.parametrize("what", ["jax", "count"])
def test_processes_that_do_not_fit_are_refused_by_name(port, what):
    first = Call(port, 0, 3 if what == "count" else 2)
    other = Call(port, 1, 2, jax="2" if what == "jax" else "1")
    for error in (first.end(), other.end()):
        assert isinstance(error, ValueError)
        name = "jax" if what == "jax" else "number of processes"
        assert f"must have the same {name}; process 1 (host-1) has 2, process 0" in str(error)


def test_a_second_process_of_one_index_is_refused_and_the_others_go_on(port):
    first, one = Call(port, 0, 3), Call(port, 1, 3)
    time.sleep(0.3)  # so that the right one is there first; either way one is refused
    twin = Call(port, 1, 3)
    while not first.said:
        time.sleep(0.01)
    last = Call(port, 2, 3)
    assert first.end() == last.end() == ["host-0", "host-1", "host-2"]
    refused = [call.end() for call in (one, twin) if isinstance(call.end(), ValueError)]
    assert "an index of its own; got process 1 (host-1) beside host-1" in str(refused[0])


def test_one_that_hung_up_may_come_again_and_strangers_are_ignored(port):
    first = Call(port, 0, 2)
    for words in (b"GET / HTTP/1.1\r\n\r\n", b"[[[[\n", b"{}\n", b""):
        while True:
            try:
                with socket.create_connection(("127.0.0.1", port), 5) as link:
                    link.sendall(words)
                break
            except ConnectionRefusedError:  # it does not listen yet
                time.sleep(0.01)
    assert Call(port, 1, 2).end() == first.end() == ["host-0", "host-1"]


def test_one_that_hung_up_after_its_name_was_taken_down_may_come_again(port):
    first = Call(port, 0, 3)
    line = {roll_call._GREETING: 3, "index": 1, "host": "host-1", "jax": "1"}
    while True:
        try:
            with socket.create_connection(("127.0.0.1", port), 5) as link:
                link.sendall(json.dumps(line).encode() + b"\n")
            break
        except ConnectionRefusedError:  # it does not listen yet
            time.sleep(0.01)
    again = Call(port, 1, 3)
    assert Call(port, 2, 3).end() == again.end() == first.end()
    assert again.result == [f"host-{index}" for index in range(3)]


def test_a_port_that_is_taken_is_waited_for_and_named(port):
    with socket.create_server(("", port)) as holder:
        error = Call(port, 0, 2, 0.3).end()
        assert isinstance(error, TryAgain) and f"must listen on port {port}" in str(error)
        first = Call(port, 0, 2)
        while not first.said:
            time.sleep(0.01)
        assert first.said == [f"process 0 waits for port {port}: Address already in use"]
        holder.close()
        assert Call(port, 1, 2).end() == first.end() == ["host-0", "host-1"]


def test_a_port_is_reached_or_the_reason_is_told(port):
    assert roll_call.reach("127.0.0.1", port, 1.0) == "Connection refused"
    assert roll_call.reach("no-such-host.invalid", port, 1.0) == "no such host"
    with socket.create_server(("127.0.0.1", port)):
        assert roll_call.reach("127.0.0.1", port, 1.0) == ""
