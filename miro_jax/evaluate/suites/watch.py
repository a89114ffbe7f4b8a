"""Checkpoints of a run, evaluated as they appear, on this machine or another, beside the trainer.

Each look takes the newest finished checkpoint that is not evaluated and that no other watcher
holds. Results lie in RUN/evals/step-001000/SUITE; the lease of a step stands beside them. Nothing
of the trainer's is written or deleted: a checkpoint that it removes meanwhile is skipped with a
line. The page of the run draws the curves after each step. Of a run in an object store, results lie
in evals/RUN/step-001000/SUITE of this machine, and there is no page of the run.
"""

import functools
import time
from collections.abc import Callable
from pathlib import Path

from miro_jax import report
from miro_jax.cli import exit as exits
from miro_jax.cli import stored_checkpoint
from miro_jax.cli.stored_checkpoint import step_of
from miro_jax.data.storage.lease import locked
from miro_jax.evaluate.suites import manifest
from miro_jax.train.checkpoint import Checkpoints

_LEASE = ".lock-watch"


def steps_of(run: Path | str) -> list[int]:
    """Return the steps of a run's finished checkpoints, ascending; a text is a URL.

    Raises:
      FileNotFoundError: there is no folder of checkpoints.
    """
    if isinstance(run, str):
        return stored_checkpoint.steps_of(run)
    with Checkpoints(run / "checkpoints", read_only=True) as checkpoints:
        return checkpoints.steps()


def newest_step(run: Path, is_stored: bool = False) -> int:
    """Return the step of a run's newest finished checkpoint.

    Args:
      is_stored: the folder is a copy of a run in an object store, which may lack the weights.

    Raises:
      FileNotFoundError: there is none.
    """
    if is_stored:
        return step_of(run)
    if not (steps := steps_of(run)):
        raise FileNotFoundError(
            f"{run / 'checkpoints'} holds no finished checkpoint; training writes them. Give "
            "--watch to wait for them."
        )
    return steps[-1]


def watch(
    run: Path | str,
    last_step: int,
    folder_of: Callable[[int], Path],
    evaluate: Callable[[int], str],
    seconds: float,
    sleep: Callable[[float], None] = time.sleep,
) -> list[int]:
    """Evaluate checkpoints until the one of the last step is evaluated, here or elsewhere.

    Args:
      run: the run's folder, or its URL. last_step: of its training.
      folder_of: step -> folder of its results. evaluate: step -> what is to be printed.
      seconds: between two looks. sleep: waits so long.

    Returns:
      The steps that were evaluated here, in order.
    """
    done: list[int] = []
    skipped: set[int] = set()
    wait = functools.partial(sleep, seconds)

    def is_done(step: int) -> bool:
        return (folder_of(step) / manifest.NAME).is_file()

    while True:
        present = steps_of(run)
        waiting = [s for s in reversed(present) if s not in skipped and not is_done(s)]
        worked = False
        for step in waiting:
            if worked := _try(run, step, folder_of(step), evaluate, skipped, wait):
                done += [step] * (step not in skipped)
                break  # newer ones may have appeared
        if not worked:
            if is_done(last_step) or last_step in skipped:
                return done
            wait()


def _try(
    run: Path | str,
    step: int,
    folder: Path,
    evaluate: Callable[[int], str],
    skipped: set[int],
    wait: Callable[[], None],
) -> bool:
    """Evaluate a step; returns False where another watcher holds it."""
    try:
        with locked(folder, _LEASE, f"the evaluation of step {step} of {run}"):
            if (folder / manifest.NAME).is_file():  # by another one, which has just ended
                return True
            try:
                exits.say(evaluate(step))
            except (OSError, ValueError):
                if not _is_gone(run, step, wait):
                    raise
                skipped.add(step)
                exits.note(f"step {step} was removed while it was evaluated: it is skipped.")
                return True
            if isinstance(run, Path):
                report.write(run)
    except BlockingIOError:
        return False
    return True


def _is_gone(run: Path | str, step: int, wait: Callable[[], None]) -> bool:
    """Return whether a checkpoint was removed; one that is being removed is looked at again."""
    if step not in steps_of(run):
        return True
    wait()
    return step not in steps_of(run)
