"""The stage that adds a reward to a trained network: new scores, a longer network, what changed.

    python -m miro_jax.main --config=configs/base.py --workdir=runs/extended --stage=extend \\
        --config.data.new_reward=sharpness --config.extend.checkpoint=runs/base

1. The new reward alone scores the images of the records (`annotate.added`), unless they have it.
2. The network gets one more reward token (`train.extend`), and trains on as any run does.
3. The extended run is evaluated, and compared with what it was (`compare`).

Each part resumes where it was stopped. The folder is then a run like any other.
"""

import functools
import logging
import os
from pathlib import Path

from miro_jax import annotate, rewards
from miro_jax.cli import run_folder
from miro_jax.cli.build import Config
from miro_jax.cli.stored_checkpoint import digest_of, locate
from miro_jax.data.records.bins import Bins
from miro_jax.data.records.manifest import Manifest, same_models
from miro_jax.data.records.staging import source_of
from miro_jax.data.storage.mirror import origin
from miro_jax.evaluate import compare
from miro_jax.evaluate import run as evaluate
from miro_jax.evaluate.preview import Preview
from miro_jax.rewards.names import short_name
from miro_jax.sample.trained import Trained, load, peek, weights_name
from miro_jax.train import components, extend, loop, peers
from miro_jax.train.state import TrainState

log = logging.getLogger("miro_jax")


def run(config: Config, workdir: Path | str) -> None:
    """Add `config.data.new_reward` to the network `config.extend.checkpoint`, into `workdir`.

    Network, encoders and rewards are those of the checkpoint where it is a run.

    Args:
      config: that `check` has passed.

    Raises:
      ValueError: records, levels or sizes do not fit.
      FileNotFoundError: no checkpoint or no records. Others as of annotation, training, evaluation.
    """
    workdir, folder = Path(workdir), locate(config.extend.checkpoint)
    config = run_folder.with_network_of(config, folder)
    with peers.watched(config.mesh.heartbeat_seconds):
        base = _identify(config, workdir)
    log.info("What is extended is %s", base)
    make = functools.partial(_make_records, config, workdir)
    if origin(workdir):  # each process has a folder of its own, and makes the same
        records = make()
    else:
        with peers.watched(config.mesh.heartbeat_seconds):
            records = peers.first("the new scores", make)
    if records is None:  # other processes annotate the rest
        return
    extended = extend.extended_config(config, records, base)

    def make_state(parts: components.Components) -> TrainState:
        before = _load(config)
        _check(before, extended, parts, workdir)
        return extend.start(parts, extend.to_host(before.weights), config.seed)

    loop.run(extended, workdir, Preview, make_state)
    if config.train.report:
        evaluate.run(extended, workdir)
        with peers.watched(config.mesh.heartbeat_seconds):
            compare.run(_load_again(config, base), extended, workdir, workdir)


def check(config: Config, workdir: Path | str) -> None:
    """Check the config, `config.json` of the checkpoint and the records, before a folder is made.

    Args:
      workdir: the run's folder, or its URL.

    Raises:
      ValueError: a key is missing or wrong, the reward is known to the network, it is a student,
        the folder is the checkpoint's own, or the records are of another source.
      FileNotFoundError: no checkpoint or no records.
    """
    checkpoint = config.extend.checkpoint
    given = {"data.new_reward": config.data.new_reward, "extend.checkpoint": checkpoint}
    for key, value in given.items():
        if not value:
            raise ValueError(f"--stage=extend must be given --config.{key}.")
    if peek(checkpoint).is_student:  # it refuses what is no checkpoint
        raise ValueError(
            f"A student of --stage=distil cannot be extended; got {checkpoint}. "
            "Extend its teacher, and distil that again."
        )
    folder = locate(checkpoint, weights=False)
    if folder.resolve() == Path(workdir).resolve():
        raise ValueError(f"--workdir must be a new folder; got the checkpoint's own, {workdir}.")
    config = run_folder.with_network_of(config, folder)
    components.validate(extend.extended_config(config, ""))
    records = run_folder.records_to_extend(config)
    manifest = Manifest.load(records)
    kind = manifest.configuration.get("source", {}).get("kind", "shapes")
    if not _is_scored(config, records, manifest) and config.source.spec == "shapes" != kind:
        raise ValueError(  # its images would be drawn first
            f"config.source.spec must be the source that {records} were made of, {kind}:...; "
            "got 'shapes'."
        )


def _identify(config: Config, workdir: Path) -> str:
    """Return the identity of the weights that are extended; they are loaded for it where new."""
    checkpoint = config.extend.checkpoint
    before = run_folder.began_with(workdir, "extend")
    if before.get("base") and before["checkpoint"] == checkpoint:
        return before["base"]  # trained on from the checkpoint, which has all of it
    base = weights_name(_load(config))
    run_folder.check_began_with(workdir, "extend", "base", base, "an extension", "network")
    return base


def _load_again(config: Config, base: str) -> Trained:
    """Load the network that was extended; ValueError where its folder has another one by now."""
    before = _load(config)
    if digest_of(found := weights_name(before)) != digest_of(base):
        raise ValueError(
            f"config.extend.checkpoint must hold the network that was extended, {base}, to be "
            f"compared with; it holds {found}. The extended run is complete: compare it by "
            "`miro-jax compare BEFORE AFTER` with a copy of what it was."
        )
    return before


def _make_records(config: Config, workdir: Path) -> str | None:
    """Return `data.records` of the extended run; None while others have to annotate."""
    base = run_folder.records_to_extend(config)
    if _is_scored(config, base, Manifest.load(base)):
        return str(source_of(base) or os.path.abspath(base))
    return None if annotate.run(config, workdir) is None else ""


def _is_scored(config: Config, records: Path, manifest: Manifest) -> bool:
    """Return whether records have scores of the new reward; ValueError: of another of its name."""
    new = short_name(config.data.new_reward)
    scored = [i for i in manifest.rewards if i.partition("@")[0] == new]
    wanted = rewards.label(config.data.new_reward)
    if scored and not any(same_models([identity], [wanted]) for identity in scored):
        raise ValueError(
            f"The records in {records} have scores of {', '.join(scored)}, which is another reward "
            f"than {config.data.new_reward} ({wanted}) and has its name. Extend by that one, or "
            "give yours another name."
        )
    return bool(scored)


def _load(config: Config) -> Trained:
    """Load the network that is extended."""
    weights = config.weights
    return load(
        config.extend.checkpoint,
        text_encoder=weights.caption_encoder or None,
        vae=weights.image_encoder or None,
    )


def _check(
    before: Trained,
    extended: Config,
    parts: components.Components,
    workdir: Path,
) -> None:
    """Raise ValueError unless the network can be extended by this run."""
    extend.check_fits(before.config, parts.network_config)
    if before.reward_names != parts.reward_names[:-1]:
        raise ValueError(
            f"config.data.train_rewards must be those of config.extend.checkpoint, "
            f"{before.reward_names}; got {parts.reward_names[:-1]}."
        )
    records = run_folder.records_folder(extended, workdir)
    now, then = Bins.load(records), before.bins
    if then is None:
        log.warning("The checkpoint keeps no levels: its rewards get those of %s", records)
        return
    names, edges = now.names[: len(then.names)], now.edges[: len(then.names)]
    if (names, now.num_bins) != (then.names, then.num_bins) or (edges != then.edges).any():
        raise ValueError(
            f"The levels of {records} must be those that the network was trained with: "
            f"{then.num_bins} of {', '.join(then.names)}. Annotate with the settings of that run."
        )
