"""The folder that a run keeps: `config.json`, `run.json`, `log.txt`, and where its records are."""

import contextlib
import hashlib
import json
import logging
import os
import platform
import shlex
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax
import ml_collections

from miro_jax.cli import processes
from miro_jax.cli.cluster import Given
from miro_jax.cli.compile_cache import keep_compiled
from miro_jax.cli.exit import MISTAKES, Formatter, is_full_disk
from miro_jax.cli.stored_checkpoint import digest_of, locate
from miro_jax.cli.stored_run import LOCK_NAME, TRAINING, is_url, open_mirror
from miro_jax.data import storage
from miro_jax.data.json_file import read_json, with_tuples
from miro_jax.data.near import near_run
from miro_jax.data.records.manifest import MANIFEST_NAME
from miro_jax.data.records.staging import open_copy
from miro_jax.data.regular_file import check_regular
from miro_jax.data.storage.files import to_json, write_atomic
from miro_jax.data.storage.lease import locked
from miro_jax.data.storage.mirror import COMMIT, origin
from miro_jax.models.fused_attention import resolve

PACKAGES = ("jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "grain", "array_record", "numpy")
CONFIG, RUN = "config.json", "run.json"
# What hosts of one run may have each for itself.
_OF_A_HOST = (
    "config.mesh.coordinator",
    "config.mesh.process_id",
    "config.mesh.num_processes",  # compared as what it comes to
    "config.data.records",
    "config.weights",
    "config.annotate",
)
_LONGEST = 100  # characters of a value that processes compare as it stands


def records_folder(config: ml_collections.ConfigDict, workdir: Path | str) -> Path:
    """Folder of the annotated records of a run; of those in an object store a copy without shards.

    Args:
      workdir: the run's folder, or its URL.

    Raises:
      ValueError: it is no such name. OSError: the store cannot be read.
    """
    return _open_records(config.data.records or os.path.join(workdir, "records"))


def _open_records(location: str | Path) -> Path:
    folder = storage.open_folder(location)
    if "\n" in str(folder):
        raise ValueError(f"config.data.records must be a folder; got {location!r}.")
    return folder.path if isinstance(folder, storage.LocalFolder) else open_copy(str(folder))


def records_to_extend(config: ml_collections.ConfigDict) -> Path:
    """Folder of the records that `config.data.new_reward` is added to.

    That of `config.data.records`, or of the run `config.extend.checkpoint`.
    """
    if config.data.records:
        return records_folder(config, Path())
    given = config.extend.checkpoint
    run = locate(given, weights=False) if given else None
    if run is None or not (run / CONFIG).is_file():
        raise ValueError(
            "The records that config.data.new_reward is added to must be given: config.data.records"
            " is their folder, or config.extend.checkpoint a run that was trained on them; got "
            f"config.extend.checkpoint={given!r}."
        )
    return _open_records(records_of(run))


def records_of(run: Path) -> str:
    """Return the path or URL of the records that a run was trained on.

    Args:
      run: its folder, which may be a copy of one in an object store.
    """
    used = read_json(run / CONFIG, {"data": {"records": str}})["data"]["records"]
    return used or f"{origin(run) or run.absolute()}/records"


def with_network_of(config: ml_collections.ConfigDict, run: Path) -> ml_collections.ConfigDict:
    """Return a config with the network, the encoders and the rewards of a run.

    What is no run with checkpoints leaves the config as it is.
    """
    if not (run / CONFIG).is_file() or not (run / "checkpoints").is_dir():
        return config
    schema = {"data": {"train_rewards": [str]}, "rewards": [str], "model": {"rin": dict}}
    made = with_tuples(read_json(run / CONFIG, {**schema, "encoder": dict}))
    c = config.copy_and_resolve_references()
    with c.unlocked():
        c.encoder = ml_collections.ConfigDict(made["encoder"])
        # What a run of an earlier version does not have is what it was then.
        c.model.rin = ml_collections.ConfigDict(
            {"added_rewards": 0, "student": False, **made["model"]["rin"]}
        )
    c.rewards, c.data.train_rewards = made["rewards"], made["data"]["train_rewards"]
    return c


def began_with(workdir: Path, stage: str) -> dict[str, Any]:
    """Return the config of a stage that a folder's checkpoints were trained by; {} without any."""
    if not _saved_steps(workdir):
        return {}  # perhaps it was stopped in its set-up, or another process is further
    return read_json(workdir / CONFIG).get(stage, {})


def check_began_with(
    workdir: Path, stage: str, key: str, identity: str, kind: str, name: str
) -> None:
    """Raise ValueError where a folder holds checkpoints of a run that began with other weights.

    Args:
      stage, key: of the config's value that keeps them, as "distil", "teacher".
      identity: of the weights, "NAME sha256:DIGEST"; their folder may have another name by now.
      kind, name: of such a run, "a student", and of what it began with, "teacher".
    """
    before = began_with(workdir, stage).get(key)
    if before is None:  # a new run, or one of an earlier version
        return
    if digest_of(before) != digest_of(identity):
        raise ValueError(
            f"--workdir must be new, or hold {kind} of the same {name}, {identity}; "
            f"{workdir} holds {f'{kind} of {before}' if before else 'another run'}."
        )


def has_records(config: ml_collections.ConfigDict, workdir: Path) -> bool:
    """Whether the annotated records of a run are there, complete."""
    return (records_folder(config, workdir) / MANIFEST_NAME).exists()


def makes_records(config: ml_collections.ConfigDict, workdir: Path) -> bool:
    """Whether training makes its records first: those of the shapes world, of this run alone."""
    mine = not config.data.records or not has_records(config, workdir)
    return config.source.spec == "shapes" and mine


def start_processes(config: ml_collections.ConfigDict, stage: str) -> None:
    """Connect this process with the others of its run, where the config says that there are some.

    Raises:
      TryAgain: other processes of the run are missing. ValueError: they do not fit together.
    """
    if config.mesh.distributed:
        c = config.mesh
        given = Given(c.coordinator, c.num_processes, c.process_id)
        # Later than `train.peers`, which says in a line what happened.
        same = _same(config, stage)
        processes.start(given, c.start_seconds, c.heartbeat_seconds + 30, same)
    elif stage in TRAINING:
        _require_alone(config)


def open_folder(
    config: ml_collections.ConfigDict,
    workdir: Path | str,
    stage: str,
    arguments: Sequence[str] = (),
    held: contextlib.ExitStack | None = None,
    resume: str = "allowed",
) -> Path:
    """Make the run's folder, start its log and write `config.json` and `run.json`.

    Once there are checkpoints, `config.json` is that of their network, written by training; other
    stages write `config-STAGE.json` when they are done. Several processes have found each other
    before.

    Args:
      workdir: the run's folder, or its URL in an object store.
      held: keeps a run that trains for this process alone, until it is closed; uploads it then.
      resume: whether there must be a checkpoint to train on from: allowed, required or never.

    Returns:
      The folder to work in, on this machine.

    Raises:
      BlockingIOError: another process trains there; the text names it.
      ValueError: a stage that trains in float16 or by the config of a study, or --resume for one
        that does not train.
      FileNotFoundError: no such folder, for a stage that begins with what training wrote; no
        checkpoint where one is required.
      FileExistsError: a checkpoint where there must be none.
      PermissionError or NotADirectoryError: the folder cannot be written, with the remedy.
    """
    _check_stage(config, stage, resume)
    begins_there = stage in ("sample", "evaluate") and not is_url(workdir)
    if begins_there and not (Path(workdir) / "checkpoints").is_dir():
        there = "are no checkpoints in" if Path(workdir).is_dir() else "is no folder"
        raise FileNotFoundError(
            f"--workdir must be the folder of a trained run; there {there} "
            f"{workdir}{near_run(workdir)}"
        )
    if is_url(workdir):
        workdir = open_mirror(config, str(workdir), stage, held or contextlib.ExitStack())
    workdir = Path(workdir)
    _check_resume(workdir, resume)
    path = log_path(workdir)
    try:
        workdir.mkdir(parents=True, exist_ok=True)
        check_regular(path)
        handler = _LogFile(path, encoding="utf-8", errors="backslashreplace")
    except (OSError, ValueError) as error:
        if isinstance(error, OSError) and is_full_disk(error):
            raise
        reason = getattr(error, "strerror", None) or str(error).rstrip(".")
        raise PermissionError(
            f"--workdir must be a folder that can be written; got {workdir} ({reason}). "
            "Give another one."
        ) from error
    handler.setFormatter(Formatter("%(asctime)s %(levelname)s %(message)s"))
    logger = logging.getLogger("miro_jax")
    logger.setLevel(logging.INFO)
    for old in [h for h in logger.handlers if isinstance(h, logging.FileHandler)]:
        logger.removeHandler(old)
        old.close()
    logger.addHandler(handler)
    keep_compiled(workdir)
    if jax.process_index() == 0:
        if stage in TRAINING and held is not None:
            held.enter_context(locked(workdir, LOCK_NAME, f"the run {workdir}", exit_if_lost=True))
        if (workdir / "checkpoints").is_dir():  # of whose network config.json is
            _undo_if_refused(held or contextlib.ExitStack(), config, workdir, stage)
        else:
            write_config(config, workdir / CONFIG)
        annotates = stage == "annotate"
        kernel = resolve(
            "auto" if annotates else config.model.attention,
            config.annotate.dtype if annotates else config.model.dtype,
        )
        facts = describe(stage, arguments) | {"attention": kernel}
        write_atomic(workdir / RUN, to_json(facts))
    return workdir


def _check_stage(config: ml_collections.ConfigDict, stage: str, resume: str) -> None:
    if resume != "allowed" and stage not in TRAINING:
        raise ValueError(
            f"--resume is for stages that train ({', '.join(TRAINING)}); got --stage={stage}."
        )
    if stage in TRAINING and "study" in config:
        raise ValueError(
            f"a config with config.study must be given to --stage=study; got --stage={stage}. "
            "Write --stage=study, or another config, such as --config=base."
        )
    if stage in (*TRAINING, "study") and config.model.dtype == "float16":
        raise ValueError(
            "config.model.dtype must be bfloat16 or float32 for training: gradients of a batch "
            "vanish in float16, as the loss is not scaled; got 'float16'."
        )


def _undo_if_refused(
    held: contextlib.ExitStack, config: ml_collections.ConfigDict, workdir: Path, stage: str
) -> None:
    """At the end of a stage write its config; of one that is refused, bring back run.json."""
    run, steps = workdir / RUN, _saved_steps(workdir)
    before = run.read_bytes() if run.is_file() else None

    @held.push
    def end(failed: type[BaseException] | None, *_: object) -> None:
        if failed is None:
            write_config(config, workdir / f"config-{stage}.json")
        elif before and issubclass(failed, MISTAKES) and _saved_steps(workdir) == steps:
            write_atomic(run, before)


def _require_alone(config: ml_collections.ConfigDict) -> None:
    c = config.mesh
    keys = (("coordinator", ""), ("num_processes", 0), ("process_id", -1))
    if named := [f"config.mesh.{key} = {c[key]!r}" for key, usual in keys if c[key] != usual]:
        raise ValueError(
            f"{' and '.join(named)} needs config.mesh.distributed = True: without it this process "
            "trains for itself."
        )


def _same(config: ml_collections.ConfigDict, stage: str) -> dict[str, str]:
    """Return what all processes of a run must have been given alike, by its name.

    Not where things are on a host; processes that annotate work apart, each on pieces of its own.
    """
    values = {"--stage": stage}
    if stage != "annotate":
        _flatten("config", json.loads(config.to_json()), values)
    return values


def _flatten(name: str, value: Any, values: dict[str, str]) -> None:
    """Add the texts of a value and of what is in it by their names."""
    if name in _OF_A_HOST:
        return
    if isinstance(value, dict) and value:
        for key in sorted(value):
            _flatten(f"{name}.{key}", value[key], values)
        return
    text = json.dumps(value)
    if len(text) > _LONGEST:  # what a process says of itself is one line of limited length
        text = f"{text[:_LONGEST]}... (sha256 {hashlib.sha256(text.encode()).hexdigest()[:12]})"
    values[name] = text


def _saved_steps(workdir: Path) -> list[int]:
    return sorted(int(p.parent.name) for p in workdir.glob(f"checkpoints/[0-9]*/{COMMIT}"))


def _check_resume(workdir: Path, resume: str) -> None:
    steps = _saved_steps(workdir)
    if resume == "required" and not steps:
        raise FileNotFoundError(
            f"--resume=required needs a checkpoint to train on from; {workdir} holds no checkpoint."
        )
    if resume == "never" and steps:
        raise FileExistsError(
            f"--resume=never needs a new folder; {workdir} holds a checkpoint of step {steps[-1]}. "
            "Give another folder, or --resume=allowed to train on from it."
        )


def log_path(workdir: Path) -> Path:
    """Return the log of this process: log.txt, and log-N.txt of process N of several."""
    index = jax.process_index()
    return workdir / (f"log-{index}.txt" if index else "log.txt")


def write_config(config: ml_collections.ConfigDict, path: Path) -> None:
    """Write a config as JSON."""
    write_atomic(path, (config.to_json_best_effort(indent=2) + "\n").encode("utf-8"))


class _LogFile(logging.FileHandler):
    """A log whose own failure, as on a full disk, neither stops nor floods the work."""

    def handleError(self, record: logging.LogRecord) -> None:
        """Do nothing: what stops the work is printed as well."""


def describe(stage: str, arguments: Sequence[str] = ()) -> dict[str, Any]:
    """Return what ran: command line, git revision, package versions, devices."""
    command = shlex.join(["python", "-m", "miro_jax.main", *arguments])
    return {
        # What the locale could not decode stands in it as halves of surrogate pairs.
        "command": os.fsencode(command).decode("utf-8", "replace"),
        "stage": stage,
        "git_revision": _git_revision(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in PACKAGES},
        "devices": [str(d) for d in jax.devices()],
        "processes": jax.process_count(),
    }


def _git_revision() -> str:
    """The commit of the source tree, with a mark when it has uncommitted changes."""
    here = Path(__file__).resolve().parent
    command = ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return "unknown: git is not installed"
    return done.stdout.strip() or f"unknown: {done.stderr.strip()}"
