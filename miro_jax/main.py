"""Entry point: arguments -> checked config -> one stage; `python -m miro_jax.main --help`."""

import logging
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from miro_jax import annotate, sample
from miro_jax.cli import exit as ends
from miro_jax.cli import run_folder, signals
from miro_jax.cli.config import Command, asks_for_help, parse, print_help
from miro_jax.data.storage import errors_of_stores
from miro_jax.evaluate import distillation, extension, training
from miro_jax.evaluate import run as evaluate
from miro_jax.evaluate.study import stage as study
from miro_jax.models import sharding
from miro_jax.train import components, one_folder, peers

log, VERB = logging.getLogger("miro_jax"), "train"

STAGES = {
    "annotate": annotate.run,
    "train": training.run,
    "sample": sample.run,
    "evaluate": evaluate.run,
    "distil": distillation.run,
    "extend": extension.run,
    "study": study.run,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage; returns the exit status, see `cli.exit`."""
    if arguments is None:
        return ends.leave(lambda: main(sys.argv[1:]))
    if asks_for_help(arguments):
        print_help()
        return ends.DONE
    try:
        command = parse(arguments, tuple(STAGES))
        config, stage = command.config, command.stage
        given, resume = command.workdir, command.resume
        for check in (components.validate, sample.validate, evaluate.validate):
            check(config)
        run_folder.start_processes(config, stage)
        with ExitStack() as opened:
            # What fails for one of several processes alone, the others hear of.
            with errors_of_stores(), peers.watched(config.mesh.heartbeat_seconds):
                workdir = run_folder.open_folder(config, given, stage, arguments, opened, resume)
                if stage in run_folder.TRAINING:
                    one_folder.check_one(workdir)
                if stage != "annotate":  # whose devices are those of config.annotate.mesh
                    sharding.make_mesh(config.mesh.data, config.mesh.model)
            held = opened.pop_all()
    except (*ends.MISTAKES, OSError, RuntimeError) as error:
        return ends.fail(VERB, error, ends.status_of(error))
    return _run(command, workdir, held)


def _run(command: Command, workdir: Path, held: ExitStack) -> int:
    log.propagate = False  # to log.txt alone: the terminal has the progress bars
    threading.excepthook = lambda failed: log.error("A thread failed: %s", failed.exc_value)
    ends.hide_failed_writes()
    try:
        with signals.raising(), errors_of_stores(), held, ends.failures_logged():
            STAGES[command.stage](command.config, workdir)
    except (*ends.MISTAKES, OSError, FloatingPointError, RuntimeError) as error:
        return ends.fail(VERB, error, ends.status_of(error), run_folder.log_path(workdir))
    except KeyboardInterrupt as stop:
        return ends.fail(VERB, ends.STOPPED, getattr(stop, "status", ends.INTERRUPTED))
    finally:
        log.propagate = True
        threading.excepthook = threading.__excepthook__
    return ends.DONE


if __name__ == "__main__":
    sys.exit(main())
