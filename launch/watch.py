#!/usr/bin/env python3
"""Keep one training run alive on machines that may be taken away, until it is complete.

    python3 launch/watch.py watch --on=queued --name=miro --zone=us-east5-b --type=v6e-16 \\
        --max-hours=60 -- miro-jax train --config=miro --workdir=gs://BUCKET/miro

The verbs create, setup, run, state, logs and delete call the script of a kind of cluster, such as
launch/queued.sh, which holds that cluster's own commands. `watch` calls them all, again and again:
it creates machines, sets them up, starts the command, and polls the machines and the newest
checkpoint in the run's folder. Machines that were taken are deleted and created again, and the
command resumes. It ends when the command is complete on all hosts, after --tries attempts without a
newer checkpoint, or when --max-hours are paid; and whichever way it ends, also by Ctrl-C, nothing
is left that costs money.

Exit status: 0 the run is complete, 1 given up, 2 a bad argument (of this program or of the
command), 3 something may be left that costs money, 128 and the signal's number when stopped.
Needs Python 3.10 and its standard library alone.
"""

import argparse
import itertools
import math
import pathlib
import re
import signal
import sys
import time
from collections.abc import Sequence

from cluster import Cluster, Phase, check_programs, last_line, last_step, variables_of
from ledger import Ledger
from stopping import ENDING, Stopped, holding_signals, ignore_signals, stop, stop_again

DONE, GAVE_UP, BAD, LEFT = 0, 1, 2, 3
KINDS = ("gke", "mig", "queued", "slurm")
VERBS = ("watch", "create", "setup", "run", "state", "logs", "delete")
SURE = 2  # looks in a row that show nothing, before machines count as gone
DELETES = 20  # tries to delete, a poll apart
NO_CAPACITY = re.compile(
    r"no (more )?capacity|RESOURCE_EXHAUSTED|POOL_EXHAUSTED|STOCKOUT|not enough resources", re.I
)


class GiveUp(Exception):
    """Nothing more will be tried; the text says why. status: of the exit."""

    def __init__(self, text: str, status: int = GAVE_UP):
        super().__init__(text)
        self.status = status


class Watcher:
    """The loop of `watch`. options: see `make_parser`."""

    def __init__(self, options: argparse.Namespace, cluster: Cluster, ledger: Ledger):
        self.options, self.cluster, self.ledger = options, cluster, ledger
        self.looked, self.phase = time.monotonic(), Phase.GONE
        self.step = 0  # of the newest checkpoint
        self.moved = self.looked  # when the newest checkpoint was first seen, or the command begun
        self.said, self.created = "", False

    def watch(self) -> None:
        """Return when the run is complete; raise GiveUp."""
        failures, adopt = 0, True
        self.step = last_step(self.options.workdir) or 0
        while True:
            begun = self.step
            why = self.attempt(adopt)
            if why is None:
                return
            self.pay()
            self.find_step()
            adopt, full = False, why.startswith("no capacity")
            failures = 0 if self.step > begun else failures + (not full)
            hours = (time.monotonic() - self.moved) / 3600
            if failures >= self.options.tries:
                raise GiveUp(f"{failures} attempts without a newer checkpoint; the last: {why}")
            if full and hours > self.options.wait_hours:
                raise GiveUp(f"no machines for {hours:.2f} hours; the last: {why}")
            self.say(f"{why}; step {self.step:,} is saved; trying again")
            time.sleep(self.options.retry_seconds * 2 ** min(failures, 5))

    def attempt(self, adopt: bool) -> str | None:
        """Bring up machines where there are none, start the command and wait for its end.

        Args:
          adopt: a command that runs there already is left running.

        Returns:
          None: the run is complete. Text: why it ended otherwise.
        """
        if self.cluster.kind != "slurm" and (why := self.bring_up()):
            return why
        found = adopt and not self.created and self.look() <= Phase.QUEUED
        if not (found and "running" in self.cluster.exits()):
            for verb in ("setup", "run"):
                if why := self.do(verb):
                    return why
        return self.follow()

    def bring_up(self) -> str | None:
        """Return None once machines are ready; else why they are not, and they are deleted."""
        begun, created, gone = time.monotonic(), False, 0
        while True:
            phase = self.look()
            if phase == Phase.READY:
                return None
            gone = gone + 1 if phase == Phase.GONE else 0
            if phase == Phase.LOST or (created and gone >= SURE):
                text = self.said
                self.delete()
                if created:
                    return f"the machines did not start ({text})"
            elif gone and not created:
                created, gone = True, 0
                if why := self.do("create"):
                    self.delete()
                    return why
                continue
            hours = self.options.wait_hours if phase == Phase.QUEUED else self.options.start_hours
            if time.monotonic() - begun > 3600 * hours:
                text = self.said
                self.delete()
                return f"no capacity within {hours:g} hours ({text})"
            time.sleep(self.options.poll_seconds)

    def follow(self) -> str | None:
        """Poll until the command has ended or its machines are gone."""
        self.moved, gone = time.monotonic(), 0
        while True:
            time.sleep(self.options.poll_seconds)
            phase = self.look()
            codes = self.cluster.exits() if phase in (Phase.READY, Phase.GONE) else []
            if len(codes) >= self.cluster.hosts and set(codes) == {"0"}:
                return None
            if str(BAD) in codes:
                raise GiveUp("the command says that its arguments are wrong: see its log", BAD)
            if failed := [code for code in codes if code not in ("0", "running")]:
                return f"the command ended with status {failed[0]}"
            gone = gone + 1 if phase == Phase.GONE else 0
            if phase == Phase.LOST or gone >= SURE:
                text = self.said
                self.delete()
                return f"the machines were lost ({text})"
            if phase == Phase.QUEUED:  # a job that waits for its turn
                self.moved = time.monotonic()
            if time.monotonic() - self.moved > 3600 * self.options.stall_hours:
                self.delete()
                return f"no newer checkpoint within {self.options.stall_hours:g} hours"

    def do(self, verb: str) -> str | None:
        """Run a verb that changes something; return what went wrong."""
        self.say(verb)
        if verb == "create":
            self.phase, self.created = Phase.STARTING, True  # may cost money from here on
        status, out, error = self.cluster.call(verb, min(self.cluster.limit, self.left()))
        if status == 0:
            return None
        text = last_line(error or out)
        if NO_CAPACITY.search(error + out):
            return f"no capacity: {text}"
        if status == BAD:
            raise GiveUp(f"{verb}: {text}", BAD)
        return f"{verb} failed with status {status}: {text}"

    def look(self) -> Phase:
        """Poll the machines and the run's folder, count what was paid, hold the limit."""
        self.pay()
        self.phase, words = self.cluster.phase()
        self.find_step()
        text = f"{words}; step {self.step:,}"
        if text != self.said:
            self.said = text
            self.say(f"{text}; {self.ledger.seconds / 3600:.2f} hours paid")
        if self.left() <= 0:
            raise GiveUp(f"--max-hours={self.options.max_hours:g} are paid; {text}")
        return self.phase

    def find_step(self) -> None:
        """Look for a newer checkpoint."""
        step = last_step(self.options.workdir)
        if step is not None and step > self.step:
            self.step, self.moved = step, time.monotonic()

    def pay(self) -> None:
        """Count the time since the last look, if machines may have cost money in it."""
        now = time.monotonic()
        if self.phase not in (Phase.QUEUED, Phase.GONE):
            self.ledger.add(now - self.looked)
        self.looked = now

    def left(self) -> float:
        """Return the seconds that may still be paid."""
        return 3600 * self.options.max_hours - self.ledger.seconds

    def delete(self) -> None:
        """Delete until nothing is seen any more; GiveUp if it stays, Stopped if a signal came."""
        seen, words, error = 0, "", ""
        with holding_signals():
            for _ in range(DELETES):
                if not seen:
                    _, _, error = self.cluster.call("delete")
                self.pay()
                self.phase, words = self.cluster.phase()
                seen = seen + 1 if self.phase == Phase.GONE else 0
                if seen >= SURE:
                    return
                time.sleep(0 if seen else self.options.poll_seconds)
        raise GiveUp(
            f"it could not be deleted and may cost money ({words}; {last_line(error)}). Delete it "
            f"by hand, with `delete` in place of `watch`",
            LEFT,
        )

    def say(self, text: str) -> None:
        """Print a line to stderr, with the time."""
        print(f"{time.strftime('%H:%M:%S')} {self.options.name}: {text}", file=sys.stderr)


def keep_alive(options: argparse.Namespace, cluster: Cluster, ledger: Ledger) -> int:
    """Watch a run to its end and leave nothing behind; returns the exit status."""
    heard = [one for one in ENDING if signal.getsignal(one) != signal.SIG_IGN]  # nohup's SIGHUP
    before = {number: signal.signal(number, stop) for number in heard}
    hook, sys.unraisablehook = sys.unraisablehook, stop_again
    try:
        watcher = Watcher(options, cluster, ledger)
        try:
            try:
                watcher.watch()
                status, text = DONE, "the run is complete"
            except GiveUp as end:
                status, text = end.status, f"given up: {end}"
            ignore_signals()
        except Stopped as end:
            status, text = 128 + end.number, f"stopped by {end}"
        except BaseException:
            ignore_signals()
            watcher.delete()
            raise
        if status != LEFT:
            watcher.delete()
        watcher.find_step()
        paid = watcher.ledger.seconds / 3600
        watcher.say(f"{text}; step {watcher.step:,}; {paid:.2f} hours paid")
        if status == DONE:
            watcher.ledger.clear()
        return status
    except GiveUp as end:
        print(f"launch/watch.py: error: {end}", file=sys.stderr)
        return end.status
    finally:
        sys.unraisablehook = hook
        for number in ENDING:
            signal.signal(number, before.get(number, signal.SIG_IGN))


def make_parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; the command to run stands behind `--`."""
    parser = argparse.ArgumentParser(
        prog="launch/watch.py",
        usage="%(prog)s VERB --on=KIND --name=NAME [options] [-- COMMAND of each host]",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("verb", choices=VERBS)
    add("--on", choices=KINDS, required=True, help="kind of cluster: the script that is called")
    add("--name", required=True, help="of the machines, and of the job")
    add("--type", default="", help="of the machines, as v5e-16, v6e-64, h100-16; not for slurm")
    add("--zone", default="", help="where they are; not for slurm")
    add("--cluster", default="", help="GKE cluster")
    add("--image", default="", help="GKE: container image, made of launch/Dockerfile")
    add("--hosts", type=int, default=1, help="Slurm: nodes")
    add("--sbatch", default="", help="Slurm: more words for sbatch, as '--partition=gpu'")
    add("--on-demand", action="store_true", help="machines that are not taken away, at full price")
    add("--repository", default="", help="what hosts clone; default: origin of this clone")
    add("--revision", default="", help="commit that they install; default: that of this clone")
    add("--port", type=int, default=8482, help="of the coordinator; older networks open 8476")
    add("--workdir", default="", help="folder of the run; default: --workdir of the command")
    add("--max-hours", type=positive, help="that may be paid for; `watch` must be given it")
    add("--tries", type=int, default=5, help="attempts without a newer checkpoint")
    add("--poll-seconds", type=float, default=60.0)
    add("--retry-seconds", type=float, default=60.0, help="after a failure; doubles each time")
    text = "without a newer checkpoint; more than the evaluation at the end takes"
    add("--stall-hours", type=positive, default=1.0, help=text)
    add("--start-hours", type=positive, default=1.0, help="for machines to start")
    add("--wait-hours", type=positive, default=24.0, help="for capacity, which costs nothing")
    add("--call-seconds", type=float, default=1800.0, help="that create or setup may take")
    add("--ledger", type=pathlib.Path, help="file of the hours paid; default: below ~/.cache")
    return parser


def positive(text: str) -> float:
    """Read a number of hours above 0."""
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0; got {text}")
    return value


def read(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Read and check the command line; SystemExit with status 2 where it is wrong."""
    parser = make_parser()
    words = list(sys.argv[1:] if arguments is None else arguments)
    end = words.index("--") if "--" in words else len(words)
    options = parser.parse_args(words[:end])
    options.command = words[end + 1 :]
    options.workdir = options.workdir or value_of("workdir", options.command)
    name = f"{options.on}-{options.name}.json"
    options.ledger = options.ledger or pathlib.Path.home() / ".cache" / "miro-launch" / name
    if not re.fullmatch(r"[a-z]([a-z0-9-]{0,38}[a-z0-9])?", options.name):
        parser.error(
            "--name must begin with a letter and have at most 40 small letters, digits and "
            f"hyphens; got {options.name!r}."
        )
    if options.verb in ("watch", "run") and not options.command:
        parser.error("the command must be given behind --, as: -- miro-jax train --config=miro ...")
    if options.verb == "watch" and options.max_hours is None:
        parser.error("--max-hours must be given: nothing is paid beyond it.")
    if options.verb == "watch" and not options.workdir:
        parser.error("the folder of the run must be given: --workdir=... in the command.")
    local = "://" not in options.workdir
    if options.verb == "watch" and options.on != "slurm" and local:
        parser.error(
            "--workdir must be in an object store, as gs://BUCKET/run: what lies on these machines "
            f"is lost with them; got {options.workdir}."
        )
    return options


def value_of(flag: str, command: Sequence[str]) -> str:
    """Return the last value of `--FLAG=VALUE` or `--FLAG VALUE` in a command; "" for none."""
    value = ""
    for word, following in itertools.zip_longest(command, command[1:], fillvalue=""):
        match = re.fullmatch(rf"--?{re.escape(flag)}(?:=(.*))?", word, re.S)
        if match and match[1] is not None:
            value = match[1]
        elif match and not following.startswith("-"):
            value = following
    return value


def check_processes(command: Sequence[str], hosts: int) -> None:
    """Raise ValueError where hosts would train one by one, each for itself."""
    given = [word for word in command if re.match(r"--?(no)?config\.mesh\.distributed(=|$)", word)]
    flag, _, value = given[-1].lstrip("-").partition("=") if given else ("no", "", "")
    together = not flag.startswith("no") and value.lower() in ("", "true", "t", "1")
    if hosts > 1 and "train" in command and not together:
        raise ValueError(
            f"{hosts} hosts train together with --config.mesh.distributed=True; got "
            f"{given[-1] if given else 'nothing of it'}. Give it in the command."
        )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    options = read(arguments)
    try:
        cluster = Cluster(options.on, variables_of(options), options.call_seconds)
        check_processes(options.command, cluster.hosts)
        check_programs(options.on, options.workdir if options.verb == "watch" else "")
        if options.verb == "watch":
            return keep_alive(options, cluster, Ledger(options.ledger))
    except ValueError as error:
        print(f"launch/watch.py: error: {error}", file=sys.stderr)
        return BAD
    return cluster.show(options.verb)


if __name__ == "__main__":
    sys.exit(main())
