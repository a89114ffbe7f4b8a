"""Entry point: arguments -> checked config -> one stage; `python -m miro_jax.main --help`."""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path

import jax

from miro_jax import annotate, evaluate, runs, sample, train
from miro_jax.command import HELP, Command, UsageError, asks_for_help, parse
from miro_jax.evals.base import EvaluatorFailed
from miro_jax.manifest import MANIFEST_NAME
from miro_jax.rewards import SHAPES_REWARDS

EXPECTED = (ValueError, OSError, FloatingPointError, EvaluatorFailed)
log = logging.getLogger("miro_jax.main")


def train_and_report(config, workdir: Path) -> None:
    """Train; make the shapes world's records first, and the report last, where asked for."""
    own = not config.data.records
    missing = not (runs.records_folder(config, workdir) / MANIFEST_NAME).exists()
    if config.source.spec == "shapes" and (own or missing):
        annotate.run(config, workdir)  # returns at once where that is done
    train.run(config, workdir)
    if config.train.report:
        evaluate.run(config, workdir)


STAGES = {
    "annotate": annotate.run,
    "train": train_and_report,
    "sample": sample.run,
    "evaluate": evaluate.run,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage; returns the exit status: 0 done, 1 the stage failed, 2 a bad argument."""
    arguments = sys.argv[1:] if arguments is None else arguments
    if asks_for_help(arguments):
        print(HELP.format(stages=" | ".join(STAGES), rewards=", ".join(SHAPES_REWARDS)), end="")
        return 0
    try:
        command = parse(arguments, tuple(STAGES))
        for check in (runs.validate, sample.validate, evaluate.validate):
            check(command.config)
        if command.config.mesh.distributed:
            jax.distributed.initialize()
        runs.open_folder(command.config, command.workdir, command.stage, arguments)
    except (UsageError, ValueError, TypeError, OSError) as error:
        return _fail(error, 2)
    return _run(command)


def _run(command: Command) -> int:
    package = logging.getLogger("miro_jax")
    package.propagate = False  # to log.txt alone: the terminal has the progress bars
    try:
        STAGES[command.stage](command.config, command.workdir)
    except EXPECTED as error:
        log.exception("The stage %s failed", command.stage)
        return _fail(f"{error} (traceback: {command.workdir / 'log.txt'})", 1)
    except Exception:
        log.exception("The stage %s failed unexpectedly", command.stage)
        raise
    finally:
        package.propagate = True
    return 0


def _fail(error: Exception | str, status: int) -> int:
    """Say in one line what is wrong."""
    print("miro_jax: error:", " ".join(str(error).split()), file=sys.stderr)
    return status


if __name__ == "__main__":
    sys.exit(main())
