"""Entry point: arguments -> checked config -> one stage; `python -m miro_jax.main --help`."""

import logging
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from miro_jax import annotate, cli, evaluate, models, sample, train
from miro_jax.cli import exit as ends
from miro_jax.cli.config import Command, asks_for_help, parse, print_help
from miro_jax.data.storage import errors_of_stores

log, VERB = logging.getLogger("miro_jax"), "train"
STAGES = {  # modules are imported when first used: help and a mistyped flag need no jax
    "annotate": lambda *given: annotate.run(*given),
    "train": lambda *given: evaluate.training.run(*given),
    "sample": lambda *given: sample.run(*given),
    "evaluate": lambda *given: evaluate.run.run(*given),
    "distil": lambda *given: evaluate.distillation.run(*given),
    "extend": lambda *given: evaluate.extension.run(*given),
    "study": lambda *given: evaluate.study.stage.run(*given),
}
CHECKS = {  # of what else a stage must be given, before a folder is made
    "train": lambda config, workdir: evaluate.training.check(config, workdir),
    "distil": lambda config, workdir: evaluate.distillation.check(config, workdir),
    "extend": lambda config, workdir: evaluate.extension.check(config, workdir),
    "study": lambda config, _: evaluate.study.stage.check(config),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one stage; returns the exit status, see `cli.exit`."""
    if arguments is None:
        return ends.leave(lambda: main(sys.argv[1:]))
    if asks_for_help(arguments):
        print_help()
        return ends.DONE
    try:
        config, given, stage, resume = command = parse(arguments, tuple(STAGES))
        evaluate.run.validate_config(config)
        with errors_of_stores():
            CHECKS.get(stage, lambda *_: None)(config, given)
        cli.run_folder.start_processes(config, stage)
        with ExitStack() as stack:
            # What fails for one of several processes alone, the others hear of.
            with errors_of_stores(), train.peers.watched(config.mesh.heartbeat_seconds):
                workdir = cli.run_folder.open_folder(config, given, stage, arguments, stack, resume)
                if stage in cli.run_folder.TRAINING:
                    train.one_folder.check_one(workdir)
                if stage != "annotate":  # whose devices are those of config.annotate.mesh
                    models.sharding.make_mesh(config.mesh.data, config.mesh.model)
            held = stack.pop_all()
    except (*ends.MISTAKES, OSError, RuntimeError) as error:
        return ends.fail(VERB, error, ends.status_of(error))
    except KeyboardInterrupt:
        return ends.fail(VERB, ends.NOT_BEGUN, ends.INTERRUPTED)
    return _run(command, workdir, held)


def _run(command: Command, workdir: Path, held: ExitStack) -> int:
    log.propagate = False  # to log.txt alone: the terminal has the progress bars
    threading.excepthook = lambda failed: log.error("A thread failed: %s", failed.exc_value)
    ends.hide_failed_writes()
    try:
        with cli.signals.raising(), errors_of_stores(), held, ends.failures_logged():
            STAGES[command.stage](command.config, workdir)
    except (*ends.MISTAKES, OSError, FloatingPointError, RuntimeError) as error:
        return ends.fail(VERB, error, ends.status_of(error), cli.run_folder.log_path(workdir))
    except KeyboardInterrupt as stop:
        return ends.fail(VERB, ends.STOPPED, getattr(stop, "status", ends.INTERRUPTED))
    finally:
        log.propagate = True
        threading.excepthook = threading.__excepthook__
    return ends.DONE


if __name__ == "__main__":
    sys.exit(main())
