"""Kill one of the two processes of a training run at random moments; see that it ends the same.

    python -m tests.killing_processes --kills=10

Each round starts both and kills one of them, which one and when being drawn. The other must leave
by itself within the heartbeat and five seconds, with status 75, try again. At the end parameters,
averages and moments must be those of a run without kills, bit for bit, and so must the records of
each step: every step that was run again read the records that it had read before, each record of an
epoch was read once.
"""

import argparse
import collections
import json
import os
import pathlib
import random
import signal
import sys
import tempfile
import time

from miro_jax import annotate
from miro_jax.train import components
from tests import training

STEPS, SAVE, BATCH, HEARTBEAT = 12, 2, 16, 10
IMAGES = 64  # four steps are an epoch


def arguments(records, workdir):
    """Of a run of two processes."""
    return (
        *training.COMMAND,
        f"--workdir={workdir}",
        f"--config.data.records={records}",
        f"--config.train.num_steps={STEPS}",
        f"--config.train.batch_size={BATCH}",
        f"--config.train.checkpoint_every_steps={SAVE}",
        "--config.train.sample_every_steps=0",
        "--noconfig.train.report",
        "--config.mesh.distributed=True",
        f"--config.mesh.heartbeat_seconds={HEARTBEAT}.0",
        f"--config.mesh.start_seconds={HEARTBEAT}.0",
    )


def records_read(pair):
    """The records of each step, all processes together, and in how many steps a replay differed."""
    steps: dict[int, list[list[int]]] = collections.defaultdict(list)
    conflicts = 0
    for path in pair.read:
        mine: dict[int, list[int]] = {}
        for line in path.read_text().splitlines():
            end, index = json.loads(line)
            conflicts += mine.setdefault(end // BATCH, index) != index
        for step, index in mine.items():
            steps[step].append(index)
    return {step: sum(parts, []) for step, parts in sorted(steps.items())}, conflicts


def epochs_are_whole(steps, count):
    """Whether each epoch has each record once; the last one may be cut short."""
    stream = [index for step in steps.values() for index in step]
    epochs = [stream[at : at + count] for at in range(0, len(stream), count)]
    return all(len(set(epoch)) == len(epoch) for epoch in epochs) and len(set(epochs[0])) == count


def kill_often(folder, records, kills, seed=0, count=IMAGES):
    """Do as the file says; what was seen, as lines, and whether all is well."""
    programs = os.environ.get("JAX_COMPILATION_CACHE_DIR", str(folder / "compiled"))
    pair = training.Processes(folder, 2, 1, JAX_COMPILATION_CACHE_DIR=programs)
    rng = random.Random(seed)
    try:
        return _kill_often(folder, records, kills, rng, pair, count)
    finally:
        pair.close()


def _kill_often(folder, records, kills, rng, pair, count):
    whole, workdir = folder / "whole", folder / "killed0"
    parts = components.build_components(training.small(train__batch_size=BATCH))
    pair.start(*arguments(records, whole))
    if pair.wait() != [0, 0]:
        return ["the uninterrupted run failed"], False
    expected, _ = records_read(pair)
    lines, killed, runs, slowest = [], 0, 0, 0.0
    begin = time.monotonic()
    pair.start(*arguments(records, workdir))
    pair.wait()
    seconds = time.monotonic() - begin
    lines.append(f"uninterrupted, warm: {seconds:.1f} s")
    while killed < kills:
        runs += 1
        workdir = folder / f"killed{runs}"
        for path in pair.read:
            path.write_text("")
        done = False
        while not done:
            wait = rng.uniform(0, 1.1) * seconds if killed < kills else training.PATIENCE
            begin = time.monotonic()
            done, line, lost = _round(pair, arguments(records, workdir), rng.randrange(2), wait)
            killed += line.startswith("killed")
            if done:  # a machine may have less to do than before
                seconds = min(seconds, time.monotonic() - begin)
            slowest = max(slowest, lost)
            lines.append(f"{killed}: {line}, at step {training.last_step(workdir)}")
            print(lines[-1], file=sys.stderr, flush=True)
            if line.startswith("WRONG"):
                return lines, False
        why = _differs(pair, parts, whole, workdir, expected, count)
        if why:
            return [*lines, why], False
    lines.append(f"{killed} kills over {runs} runs: equal; survivors left within {slowest:.1f} s")
    return lines, True


def _round(pair, words, victim, wait):
    """Start both, and kill one after `wait` seconds; whether they ended, a line, seconds."""
    pids = pair.start(*words)
    slowdown = training.slowdown()
    deadline = time.monotonic() + wait
    training.wait_until(lambda: time.monotonic() > deadline, pids[victim])
    killed = time.monotonic()
    if training.is_running(pids[victim]):
        os.kill(pids[victim], signal.SIGKILL)
    statuses = pair.wait()
    lost = time.monotonic() - killed
    if statuses == [0, 0]:
        return True, "ended", 0.0
    line = f"process {victim} after {wait:.1f} s, statuses {statuses}, the other {lost:.1f} s later"
    if statuses[victim] != -signal.SIGKILL or statuses[1 - victim] not in (0, 75):
        return True, f"WRONG: {line}", lost
    if lost > HEARTBEAT + 5 * slowdown:
        return True, f"WRONG, slow: {line}", lost
    return False, f"killed {line}", lost


def _differs(pair, parts, whole, workdir, expected, count):
    """What of a run is not as without kills; "" where all is."""
    step, arrays, data_state = training.newest(workdir, parts)
    last, wanted, wanted_state = training.newest(whole, parts)
    if (step, data_state) != (last, wanted_state):
        return f"another end: step {step} of {last}"
    different = [name for name in wanted if arrays[name].tobytes() != wanted[name].tobytes()]
    if different or arrays.keys() != wanted.keys():
        return f"{len(different)} of {len(wanted)} arrays differ, as {different[:1]}"
    if training.without_times(workdir) != training.without_times(whole):
        return "metrics differ"
    steps, conflicts = records_read(pair)
    if conflicts:
        return f"{conflicts} steps read other records when they were run again"
    if steps != expected:
        return "steps read other records than without kills"
    return "" if epochs_are_whole(steps, count) else "records of an epoch are lost or doubled"


def main(arguments=None):
    """Run the script; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        small = training.tiny(
            source__shapes__num_images=IMAGES, source__shapes__images_per_shard=IMAGES // 2
        )
        annotate.run(small, folder / "made")
        lines, well = kill_often(folder, folder / "made" / "records", flags.kills, flags.seed)
    print("\n".join(lines))
    return 0 if well else 1


if __name__ == "__main__":
    sys.exit(main())
