"""The processes of a run find each other before JAX does: who is there, who is missing.

JAX waits for all of them in native code and aborts at its time limit with a stack of C++ frames,
which names nobody. So process 0 first listens itself on its port, the same one that JAX takes
after it: no other need be open. Each of the others says one line of JSON, its index, host and
versions, and gets one: all are there, or why not.
"""

import contextlib
import json
import os
import select
import socket
import time
from collections.abc import Callable, Iterable, Mapping

from miro_jax.cli.cluster import OLD_PORT, Cluster
from miro_jax.cli.exit import TryAgain, note

SECONDS_BETWEEN_TRIES, SECONDS_UNTIL_NOTE = 0.5, 10.0
_LARGEST = 1 << 16  # bytes of a line
_GREETING = "processes of this run of miro_jax"


def call(
    cluster: Cluster, me: Mapping[str, str], seconds: float, say: Callable[[str], None] = note
) -> list[str]:
    """Wait until all processes of a run are there.

    Args:
      cluster: of the run. seconds: to wait at most. say: prints who is waited for.
      me: "host", a name for people, and versions, in which processes must be equal.

    Returns:
      The host of each process.

    Raises:
      TryAgain: some are missing; the text names them.
      ValueError: processes of other versions, of another number, or two of one index.
    """
    deadline = time.monotonic() + seconds
    if cluster.index == 0:
        return _Caller(cluster, me, seconds, say).wait(deadline)
    return _answer(cluster, me, seconds, say, deadline)


def reach(host: str, port: int, seconds: float) -> str:
    """Return "" where a port can be connected to, else why it cannot."""
    try:
        socket.create_connection((host, port), seconds).close()
    except OSError as error:
        return _reason(error)
    return ""


def _reason(error: OSError) -> str:
    if isinstance(error, socket.gaierror):
        return "no such host"
    if isinstance(error, TimeoutError):
        return "no answer: a firewall?"
    return os.strerror(error.errno) if error.errno else str(error)


def _answer(cluster: Cluster, me: Mapping[str, str], seconds, say, deadline) -> list[str]:
    """What processes other than 0 do: connect, say who is there, wait for the answer."""
    line = json.dumps({_GREETING: cluster.count, "index": cluster.index, **me}) + "\n"
    why, began, noted = "", time.monotonic(), False
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection((cluster.host, cluster.port), min(left, 10)) as link:
                link.sendall(line.encode())
                link.settimeout(max(deadline + 5 - time.monotonic(), 0.1))  # it has the last word
                answer = _parse(_read_line(link))
        except OSError as error:
            why = _reason(error)
        else:
            if isinstance(hosts := answer.get("hosts"), list):
                return [str(host) for host in hosts]
            if text := answer.get("missing"):
                raise TryAgain(str(text))
            if text := answer.get("refused"):
                raise ValueError(str(text))
            why = "what listens there is no process of this run"
        if not noted and time.monotonic() - began > SECONDS_UNTIL_NOTE:
            noted = True
            say(f"process {cluster.index} waits for process 0 at {cluster.address}: {why}")
        time.sleep(SECONDS_BETWEEN_TRIES)
    raise TryAgain(
        f"{cluster.name(0)} must answer process {cluster.index} at {cluster.address} within "
        f"{seconds:g} s; got: {why}. Start it, and let all hosts reach that port: some networks "
        f"open {OLD_PORT} alone (config.mesh.coordinator=HOST:PORT)."
    )


def _read_line(link: socket.socket) -> bytes:
    data = b""
    while not data.endswith(b"\n") and len(data) < _LARGEST:
        more = link.recv(4096)
        if not more:
            raise ConnectionResetError("it hung up")
        data += more
    return data


def _parse(line: bytes) -> dict:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


class _Caller:
    """What process 0 does: listen, collect the others, answer them all at once."""

    def __init__(self, cluster: Cluster, me: Mapping[str, str], seconds, say):
        self.cluster, self.me, self.seconds, self.say = cluster, dict(me), seconds, say
        self.hosts: dict[int, str] = {0: self.me["host"]}
        self.links: dict[socket.socket, int] = {}  # to the index that it said, -1 before
        self.heard: dict[socket.socket, bytes] = {}

    def wait(self, deadline: float) -> list[str]:
        """Return the host of each process; raise as `call`."""
        with contextlib.ExitStack() as stack:
            server = stack.enter_context(self._listen(deadline))
            server.setblocking(False)
            stack.callback(self._hang_up)
            began, noted = time.monotonic(), False
            while len(self.hosts) < self.cluster.count:
                now = time.monotonic()
                if now > deadline:
                    self._tell({"missing": self._missing()})
                    raise TryAgain(self._missing())
                if not noted and now - began > SECONDS_UNTIL_NOTE:
                    noted = True
                    self.say(f"process 0 waits for {self._absent()}")
                ready, _, _ = select.select([server, *self.links], [], [], 0.2)
                for link in ready:
                    self._accept(server) if link is server else self._hear(link)
            hosts = [self.hosts[index] for index in range(self.cluster.count)]
            self._tell({"hosts": hosts})
            return hosts

    def _listen(self, deadline: float) -> socket.socket:
        """Take the port, also once an earlier process has let it go."""
        noted, port = False, self.cluster.port
        while True:
            try:
                both = socket.has_dualstack_ipv6()
                family = socket.AF_INET6 if both else socket.AF_INET
                return socket.create_server(
                    ("", port), family=family, dualstack_ipv6=both, backlog=1024
                )
            except OSError as error:
                if time.monotonic() > deadline:
                    raise TryAgain(
                        f"process 0 must listen on port {port} of this host; got: "
                        f"{_reason(error)}. End the process that holds it, or give another port "
                        "(config.mesh.coordinator=HOST:PORT)."
                    ) from error
                if not noted:
                    noted = True
                    self.say(f"process 0 waits for port {port}: {_reason(error)}")
                time.sleep(SECONDS_BETWEEN_TRIES)

    def _accept(self, server: socket.socket) -> None:
        try:
            link, _ = server.accept()
        except OSError:  # it has gone again
            return
        link.setblocking(False)
        self.links[link], self.heard[link] = -1, b""

    def _hear(self, link: socket.socket) -> None:
        try:
            more = link.recv(4096)
        except BlockingIOError:
            return
        except OSError:
            more = b""
        data = self.heard[link] = self.heard[link] + more
        if not more or len(data) > _LARGEST:
            self._drop(link)
        elif data.endswith(b"\n") and self.links[link] < 0:
            self._enter(link, _parse(data))

    def _drop(self, link: socket.socket) -> None:
        """Forget who hung up: it may come again."""
        self.hosts.pop(self.links.pop(link), None)
        del self.heard[link]
        link.close()

    def _enter(self, link: socket.socket, said: dict) -> None:
        """Take down who is there; refuse all where one does not fit."""
        index, count = said.get("index"), said.get(_GREETING)
        if not isinstance(index, int) or not isinstance(count, int):
            self._drop(link)  # somebody else
            return
        who = f"process {index} ({said.get('host')})"
        ours = self.me | {"number of processes": self.cluster.count, "host": said.get("host")}
        theirs = said | {"number of processes": count}
        for name in ours:
            if theirs.get(name) != ours[name]:
                text = (
                    f"all processes must have the same {name}; {who} has {theirs.get(name)}, "
                    f"process 0 ({self.me['host']}) {ours[name]}."
                )
                self._tell({"refused": text})
                raise ValueError(text)
        if not 0 <= index < count or index in self.hosts:  # one that an earlier run left, perhaps
            other = self.hosts.get(index, f"none of {count} processes")
            text = f"each process must have an index of its own; got {who} beside {other}."
            self._tell({"refused": text}, [link])
            self.say(text)
            self._drop(link)
            return
        self.links[link], self.hosts[index] = index, str(said.get("host"))

    def _tell(self, answer: dict, links: Iterable[socket.socket] = ()) -> None:
        line = (json.dumps(answer) + "\n").encode()
        for link in links or self.links:
            with contextlib.suppress(OSError):
                link.settimeout(5.0)
                link.sendall(line)

    def _hang_up(self) -> None:
        for link in self.links:
            link.close()

    def _absent(self) -> str:
        absent = [i for i in range(self.cluster.count) if i not in self.hosts]
        named = ", ".join(self.cluster.name(i).removeprefix("process ") for i in absent[:16])
        more = f" and {len(absent) - 16} more" if len(absent) > 16 else ""
        return f"{len(absent)} of {self.cluster.count} processes: {named}{more}"

    def _missing(self) -> str:
        return (
            f"all processes must be there within {self.seconds:g} s of the start of process 0; "
            f"missing are {self._absent()}. See what they printed; they must reach "
            f"{self.cluster.address}."
        )
