"""Stage: pictures with captions -> records with image latents, caption tokens and reward scores.

One tar piece becomes one shard of records, see `piece`. A sample that cannot be used is a failure:
it is counted by cause and listed in `failures.jsonl`, never dropped in silence.

A shard is published whole, with its failures in its sidecar, so a run that was killed goes on at
the next missing shard and ends with the same bytes. `manifest.json` comes last; until then
`manifest.partial.json` says what the folder is being made with.

    python -m miro_jax.annotate --source='tar:/data/*.tar' --out=/data/records --rewards=beauty

Letters: N records, R rewards.
"""

from __future__ import annotations

import argparse
import ast
import collections
import dataclasses
import json
import os
import sys
import tempfile
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

import ml_collections
from tqdm import tqdm

from miro_jax import bins, files, runs, shards, sources
from miro_jax.encoders import build_caption_encoder, build_image_encoder
from miro_jax.piece import Tools, annotate_piece
from miro_jax.rewards import REWARDS, load_reward
from miro_jax.shapes import world

PARTIAL_NAME = "manifest.partial.json"
FAILURES_NAME = "failures.jsonl"
STATS_NAME = "stats.json"
# What the content of a record depends on, besides the configuration.
_PACKAGES = ("numpy", "pillow", "simplejpeg", "array_record")
# Before so many samples a rate says little, and a run should not end over its first bad picture.
_MIN_SAMPLES_FOR_RATE = 1000


def run(config: ml_collections.ConfigDict, workdir: str | os.PathLike) -> shards.Manifest:
    """Annotate the source of a config into the run's folder of records.

    The shapes world is drawn into `WORKDIR/source` first, where it is not there yet.

    Raises:
        See `annotate`.
    """
    if config.source.spec == "shapes":
        arguments = config.source.shapes.to_dict()
        arguments["categories"] = dict(arguments["categories"])
        folder = Path(workdir) / "source"
        _check_folder(folder)
        pieces = [str(path) for path in world.write_shards(folder, **arguments)]
        source = {"kind": "shapes", **arguments}
    else:
        pieces = sources.list_pieces(config.source.spec)
        source = {"kind": "tar"}
    return annotate(
        pieces,
        runs.records_folder(config, Path(workdir)),
        runs.load_rewards(config),
        build_image_encoder(**config.encoder.image),
        build_caption_encoder(**config.encoder.caption),
        image_size=config.encoder.image.size,
        source=source,
        **config.annotate,
    )


def annotate(*arguments, **keywords) -> shards.Manifest:
    """Annotate pieces into a folder; return at once where that is done.

    Args:
        As `plan`.

    Returns:
        The manifest of the complete set.

    Raises:
        ValueError: a bad argument, or the folder holds records of another configuration.
        PermissionError: the folder cannot be written.
        RuntimeError: more samples failed than `max_failure_rate`, with the main causes; everything
            done so far is kept.
    """
    return execute(plan(*arguments, **keywords))


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is to be annotated, with what, into what: the arguments of `plan`, checked."""

    pieces: tuple[str, ...]
    out: Path
    tools: Tools
    num_bins: int
    bins_strategy: str
    max_failure_rate: float
    num_threads: int
    configuration: dict


def plan(
    pieces: Sequence[str],
    out: str | os.PathLike,
    rewards: Sequence[Any],
    image_encoder: Any,
    caption_encoder: Any,
    image_size: int,
    source: dict | None = None,
    num_bins: int = 64,
    bins_strategy: str = "quantile",
    batch_size: int = 64,
    max_failure_rate: float = 0.01,
    num_threads: int = 4,
) -> Plan:
    """Check everything that can be checked before the first picture is read.

    Args:
        pieces: paths of tar files, see `sources.tar_samples`.
        out: folder for the records, made where missing. One process at a time may write it.
        rewards: see `rewards.base.Reward`; one with a true attribute `may_be_missing` may answer
            NaN, which is then stored as missing; else a score that is not finite is a failure.
        image_encoder, caption_encoder: see `encoders`.
        image_size: pictures are cropped square and resized to this many pixels a side, for the
            encoder and the rewards.
        source: what the pieces are, for the manifest.
        num_bins, bins_strategy: see `bins.fit_edges`; may be changed on a complete set.
        batch_size: pictures scored at a time.
        max_failure_rate: share of samples in [0, 1].
        num_threads: that decode.

    Raises:
        See `annotate`.
    """
    if not pieces or not rewards:
        raise ValueError(
            f"At least one piece and one reward are needed; got {len(pieces)} and {len(rewards)}."
        )
    if min(batch_size, num_threads, image_size) < 1:
        raise ValueError(
            "batch_size, num_threads and image_size must be at least 1; "
            f"got {batch_size}, {num_threads} and {image_size}."
        )
    if not 0 <= max_failure_rate <= 1:
        raise ValueError(f"max_failure_rate must be in [0, 1]; got {max_failure_rate}.")
    bins.check(num_bins, bins_strategy)
    out = Path(out)
    configuration = {
        "source": source or {"kind": "tar"},
        "pieces": {_piece_name(p, pieces): sources.fingerprint(p) for p in pieces},
        "rewards": [reward.identity for reward in rewards],
        "image_encoder": image_encoder.identity,
        "caption_encoder": caption_encoder.identity,
        "latent_shape": list(image_encoder.latent_shape),
        "caption_width": caption_encoder.width,
        "image_size": image_size,
    }
    configuration = json.loads(files.to_json(configuration))  # as it will be read back
    _check_configuration(out, configuration)
    if not _is_complete(out):  # a complete set may well be shared and read-only
        _check_folder(out)
    return Plan(
        tuple(pieces),
        out,
        Tools(tuple(rewards), image_encoder, caption_encoder, image_size, batch_size),
        num_bins,
        bins_strategy,
        max_failure_rate,
        num_threads,
        configuration,
    )


def _piece_name(path: str, pieces: Sequence[str]) -> str:
    """Name a piece without the part of the path that all share, so that data may be moved."""
    return os.path.relpath(path, os.path.commonpath([os.path.dirname(p) or "." for p in pieces]))


def _check_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise PermissionError(
            f"{folder} must be a folder that can be written; got: {error.strerror}. "
            "Give another one."
        ) from error


def _check_configuration(out: Path, configuration: dict) -> None:
    """Raise ValueError if the folder holds, or is to hold, records of another configuration."""
    if (out / shards.MANIFEST_NAME).exists():
        present = shards.Manifest.load(out).configuration
    elif (out / PARTIAL_NAME).exists():
        present = json.loads((out / PARTIAL_NAME).read_bytes())
    elif any(out.glob("*" + shards.SHARD_SUFFIX)):
        raise ValueError(
            f"{out} holds shards but neither {shards.MANIFEST_NAME} nor {PARTIAL_NAME} that say "
            "what they were made with. Delete the folder or name another."
        )
    else:
        return
    names = sorted({*present, *configuration})
    differing = [name for name in names if present.get(name) != configuration.get(name)]
    if differing:
        details = "; ".join(
            f"{name} there {_brief(present.get(name))}, asked {_brief(configuration.get(name))}"
            for name in differing
        )
        raise ValueError(
            f"{out} must hold records of the configuration asked for, but differs in "
            f"{', '.join(differing)} ({details}). Delete the folder or name another."
        )


def _brief(value: object, limit: int = 200) -> str:
    text = json.dumps(value)
    return text if len(text) <= limit else text[:limit] + "..."


def execute(todo: Plan) -> shards.Manifest:
    """Do what is not done yet of a plan; see `annotate`."""
    if _is_complete(todo.out):
        manifest = shards.Manifest.load(todo.out)
        _write_bins(todo, manifest)
    else:
        files.write_atomic(todo.out / PARTIAL_NAME, files.to_json(todo.configuration))
        (todo.out / shards.MANIFEST_NAME).unlink(missing_ok=True)  # it named shards that are gone
        sidecars = _annotate_pieces(todo)
        _check_failures(todo, sidecars.values(), min_samples=0)
        manifest = _finish(todo, sidecars)
    if (todo.out / PARTIAL_NAME).exists():
        (todo.out / PARTIAL_NAME).unlink()
    return manifest


def _is_complete(out: Path) -> bool:
    """Tell whether there is a manifest, and every shard that it names."""
    if not (out / shards.MANIFEST_NAME).exists():
        return False
    return all((out / name).exists() for name in shards.Manifest.load(out).shards)


def _annotate_pieces(todo: Plan) -> dict[str, dict]:
    """Write the missing shards; return the sidecars of all by shard name."""
    sidecars = {}
    names = list(todo.configuration["pieces"])
    with ThreadPoolExecutor(todo.num_threads) as pool, tqdm(unit=" images", mininterval=1) as bar:
        for number, path in enumerate(todo.pieces):
            shard = todo.out / f"shard-{number:05d}{shards.SHARD_SUFFIX}"
            bar.set_description(f"annotate {number + 1}/{len(todo.pieces)}")
            if not shard.exists():
                facts = {"piece": names[number], "num_samples": 0, "failures": []}
                entries = annotate_piece(path, facts, todo.tools, pool, bar.update)
                shards.write_shard(shard, entries, facts)
            sidecars[shard.name] = shards.read_sidecar(shard)
            _check_failures(todo, sidecars.values(), _MIN_SAMPLES_FOR_RATE)
    return sidecars


def _check_failures(todo: Plan, sidecars: Iterable[dict], min_samples: int) -> None:
    """Raise RuntimeError naming the main causes when too large a share of samples failed."""
    failures = [failure for sidecar in sidecars for failure in sidecar["failures"]]
    num_samples = sum(sidecar["num_samples"] for sidecar in sidecars)
    rate = len(failures) / max(num_samples, 1)
    if rate > todo.max_failure_rate and num_samples >= min_samples:
        causes = collections.Counter(failure["cause"] for failure in failures).most_common(5)
        examples = ", ".join(f"{f['key'] or f['detail']} in {f['piece']}" for f in failures[:3])
        raise RuntimeError(
            f"At most {todo.max_failure_rate:.2%} of samples may fail; {len(failures)} of "
            f"{num_samples} did ({rate:.2%}): "
            + ", ".join(f"{cause} ({count})" for cause, count in causes)
            + f". First: {examples}. Mend the source and delete {todo.out}, or raise "
            "max_failure_rate and run again: what is done is kept."
        )


def _finish(todo: Plan, sidecars: dict[str, dict]) -> shards.Manifest:
    """Write what describes the set as a whole, the manifest last."""
    failures = [failure for sidecar in sidecars.values() for failure in sidecar["failures"]]
    scores = shards.read_scores(todo.out)  # [N, 2, R]
    if not len(scores):
        causes = collections.Counter(failure["cause"] for failure in failures).most_common(5)
        raise RuntimeError(f"At least one sample must be usable; none was. Causes: {causes}.")
    lines = [json.dumps(f, sort_keys=True, ensure_ascii=False) + "\n" for f in failures]
    files.write_atomic(todo.out / FAILURES_NAME, "".join(lines).encode("utf-8"))
    names = todo.configuration["rewards"]
    stats = {
        "captions": bins.summarize(scores[:, 0], names),
        "synthetic_captions": bins.summarize(scores[:, 1], names),
        "failures": dict(collections.Counter(failure["cause"] for failure in failures)),
    }
    files.write_atomic(todo.out / STATS_NAME, files.to_json(stats))
    manifest = shards.Manifest(
        configuration=todo.configuration,
        shards={name: sidecar["count"] for name, sidecar in sidecars.items()},
        num_samples=sum(sidecar["num_samples"] for sidecar in sidecars.values()),
        num_failures=len(failures),
        versions={name: metadata.version(name) for name in _PACKAGES},
    )
    _write_bins(todo, manifest)
    manifest.save(todo.out)
    return manifest


def _write_bins(todo: Plan, manifest: shards.Manifest) -> None:
    """Fit the bins over original and synthetic scores together, unless they are there already."""
    path = todo.out / bins.BINS_NAME
    if path.exists():
        present = bins.Bins.load(path)
        wanted = (todo.num_bins, todo.bins_strategy, manifest.digest)
        if (present.num_bins, present.strategy, present.manifest_digest) == wanted:
            return
    scores = shards.read_scores(todo.out)
    fitted = bins.fit_bins(
        scores, manifest.rewards, todo.num_bins, todo.bins_strategy, manifest.digest
    )
    fitted.save(path)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m miro_jax.annotate",
        description="Turn pictures with captions into records: encoded, scored, ready to train on.",
        epilog="example: python -m miro_jax.annotate --source='tar:/data/cc12m/*.tar' "
        "--out=/data/records --rewards=sharpness,beauty --image-size=32",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    add = parser.add_argument
    add("--source", required=True, help="tar:PATTERN, shards with KEY.jpg, KEY.txt, KEY.json")
    add("--out", required=True, help="folder for the records")
    add("--rewards", required=True, help=f"names with commas between, of: {', '.join(REWARDS)}")
    add("--image-size", type=int, default=32, help="pixels a side after crop and resize")
    add("--image-encoder", default="pixels", help="NAME or NAME:KEY=VALUE,KEY=VALUE")
    add("--caption-encoder", default="words:width=64,max_tokens=32", help="likewise")
    add("--num-bins", type=int, default=64, help="levels of each reward")
    add("--bins-strategy", default="quantile", choices=bins.STRATEGIES, help="how edges are fitted")
    add("--batch-size", type=int, default=64, help="pictures scored at a time")
    add("--max-failure-rate", type=float, default=0.01, help="share of samples that may fail")
    add("--num-threads", type=int, default=4, help="threads that decode")
    return parser


def _parse_encoder(text: str) -> dict:
    """`NAME:KEY=VALUE,KEY=VALUE` -> {"name": NAME, KEY: VALUE}."""
    name, _, rest = text.partition(":")
    arguments = {"name": name}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if not equals:
            raise ValueError(f"An encoder must be NAME:KEY=VALUE,KEY=VALUE; got {text!r}.")
        try:
            arguments[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[key] = value  # a plain word
    return arguments


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return the exit status."""
    parser = _parser()
    flags = parser.parse_args(arguments)
    try:
        todo = plan(
            sources.list_pieces(flags.source),
            flags.out,
            [load_reward(name) for name in flags.rewards.split(",")],
            build_image_encoder(size=flags.image_size, **_parse_encoder(flags.image_encoder)),
            build_caption_encoder(**_parse_encoder(flags.caption_encoder)),
            flags.image_size,
            num_bins=flags.num_bins,
            bins_strategy=flags.bins_strategy,
            batch_size=flags.batch_size,
            max_failure_rate=flags.max_failure_rate,
            num_threads=flags.num_threads,
        )
    except (ValueError, TypeError, OSError) as error:
        parser.error(str(error))  # exits with status 2
    try:
        manifest = execute(todo)
    except RuntimeError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{manifest.num_records} records, {manifest.num_failures} failures: {todo.out}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
