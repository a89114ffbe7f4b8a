"""Evaluate the images of a suite: find, judge, score, measure, and write what was measured.

    OUT/evaluation.partial.json    the request; another one is refused
    OUT/parts/...                  what is judged, see `judging`
    OUT/images.jsonl               a line for each image, see `rows`
    OUT/table.txt, .csv, .tex      the numbers
    OUT/evaluation.json            the numbers with their manifest; written last
    OUT/report.html                the page

A run that was killed resumes, to the same bytes of all but the date.
"""

import contextlib
import dataclasses
import datetime
import functools
import platform
from collections import Counter
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import jax

from miro_jax import __version__
from miro_jax.data.json_file import read_json
from miro_jax.data.storage import LocalFolder
from miro_jax.data.storage.claim import Claim
from miro_jax.data.storage.files import TEMPORARY, remove_leftovers
from miro_jax.data.storage.lease import locked
from miro_jax.evaluate.suites import features, manifest, scoring
from miro_jax.evaluate.suites.base import Judge, Suite
from miro_jax.evaluate.suites.find import OURS, Found, SuiteImage, find_images
from miro_jax.evaluate.suites.judging import PARTS, judge_all
from miro_jax.evaluate.suites.manifest import UNKNOWN, Evaluation
from miro_jax.evaluate.suites.measure import STATISTICS, describe_result, measure
from miro_jax.evaluate.suites.rows import digest_of_images
from miro_jax.evaluate.suites.settings import MODEL, Settings
from miro_jax.evaluate.suites.tables import write_results
from miro_jax.rewards import label

PARTIAL = "evaluation.partial.json"
_LOCK = ".lock-evaluate"
_PACKAGES = ("jax", "jaxlib", "flax", "numpy", "pillow", "simplejpeg")
_DECLARED = ("model", "sampling", "post_selection")  # groups that a user may know more of
SEED_RULE = "each image its own: (seed, index of the prompt, index of the sample)"


@dataclasses.dataclass(frozen=True)
class Job:
    """A checked evaluation. suite, rewards: see `choose`. folder: of the results."""

    suite: Suite
    found: Found
    settings: Settings
    rewards: tuple[str, ...]
    folder: Path

    @functools.cached_property
    def request(self) -> dict[str, Any]:
        """What the results depend on, as far as it is known without weights."""
        request = request_without_images(self.suite, self.rewards, self.settings) | {
            "images": {"count": len(self.found.images), "digest": self.found.digest},
            "images_per_prompt": self.found.per_prompt,
        }
        if self.settings.reference is not None:
            request["reference_files"] = features.describe_reference(self.settings.reference)
        return request

    @property
    def claim(self) -> Claim:
        """The claim on the folder."""
        return make_claim(self.folder)


def make_claim(folder: Path) -> Claim:
    """Return the claim on a folder of results."""
    return Claim(
        folder=LocalFolder(folder),
        manifest=manifest.NAME,
        partial=PARTIAL,
        schema={"request": dict},
        remedy="Give another --out, or delete it.",
    )


def request_without_images(
    suite: Suite, rewards: Sequence[str], settings: Settings
) -> dict[str, Any]:
    """Return what of a request needs no image to be read; suite, rewards: of `choose`."""
    s = settings
    return {
        "suite": suite.describe(),
        "rewards": [label(name) for name in rewards],
        "weights": dict(s.weights),
        "judge": dict(s.judge) if suite.open_judge else None,
        "declared": dict(s.declare),
    } | {k: v for k in ("features", "reference") if (v := getattr(s, k)) is not None}


def choose(suite: Suite, settings: Settings) -> tuple[Suite, tuple[str, ...]]:
    """Return what is measured: the suite, without its judge where it takes no part, and rewards.

    Raises:
      ValueError: a bad argument, or nothing to measure.
    """
    check_declared(settings.declare)
    rewards = scoring.choose(settings.rewards or suite.rewards, dict(settings.weights))
    suite = suite.without_judge() if settings.no_judge else suite
    if not rewards and not suite.score and not settings.export:
        raise ValueError(f"{suite.name} measures rewards alone: name some with --rewards=NAMES.")
    if settings.reference is not None and settings.features is None:
        raise ValueError(
            f"--reference must come with --features, the model of both, such as {MODEL}."
        )
    features.check(settings.features, settings.reference)
    if settings.judge and suite.open_judge is None:
        raise ValueError(f"--judge must be given for a suite with a judge; {suite.name} has none.")
    return suite, rewards


def make_job(suite: Suite, settings: Settings, folder: Path) -> Job:
    """Find the images, and check what can be checked without weights.

    Args:
      folder: of the results.

    Raises:
      ValueError: see `choose` and `find.find_images`, or the folder holds other results.
      FileNotFoundError: there are no images.
    """
    suite, rewards = choose(suite, settings)
    found = find_images(
        settings.what, suite, settings.images_per_prompt, settings.captions, settings.partial
    )
    job = Job(suite, found, settings, rewards, folder)
    job.claim.check(job.request)
    check_judge(suite, settings, folder)
    return job


def check_judge(suite: Suite, settings: Settings, folder: Path | None = None) -> None:
    """Check the options of a suite's judge, unless `folder` holds the results already."""
    is_done = folder is not None and (folder / manifest.NAME).is_file()
    if suite.check_judge is not None and not is_done:
        suite.check_judge(dict(settings.judge))


def check_declared(declared: Sequence[tuple[str, str]]) -> None:
    """Raise ValueError unless every key names a group that may be declared."""
    for key, _ in declared:
        group, dot, name = key.partition(".")
        if group not in _DECLARED or not dot or not name:
            raise ValueError(
                f"--declare must be GROUP.KEY=VALUE, GROUP one of {', '.join(_DECLARED)}; got "
                f"{key!r}."
            )


def run(job: Job, judge: Judge | None = None, silent: bool = False) -> Evaluation:
    """Do what is not done yet; returns the evaluation.

    Args:
      judge: opened; None opens it where one takes part.

    Raises:
      ValueError: an image cannot be read or lacks a reward, and the set is not `--partial`.
    """
    path = job.folder / manifest.NAME
    if not path.is_file():
        with locked(job.folder, _LOCK, f"the evaluation in {job.folder}"):
            if not path.is_file():
                _run(job, judge, silent)
    if _has_leftovers(job.folder):  # of work that was killed; who may not write lets them be
        with contextlib.suppress(OSError), locked(job.folder, _LOCK, str(job.folder)):
            _clean(job.folder)
    evaluation = manifest.read(job.folder)
    _check_failed(job, evaluation.manifest["result"]["failed"])
    if evaluation.manifest["result"].get("unscored"):
        _check_scored(job, evaluation.rows, f"Delete {job.folder} to score them again")
    return evaluation


def _run(job: Job, judge: Judge | None, silent: bool) -> None:
    folder, images = LocalFolder(job.folder), job.found.images
    if judge is None and job.suite.open_judge is not None:
        judge = job.suite.open_judge(dict(job.settings.judge))
    identity = dict(judge.identity) if judge else {}
    request = job.request | {"judge_identity": identity}
    job.claim.begin(request)
    rows, failed = judge_all(folder, images, judge, silent)
    _check_failed(job, failed)
    used = {(row["key"], row["sample"]) for row in rows}
    scored = [image for image in images if (image.key, image.sample) in used]
    rewards, towers = scoring.score_suite(
        job.folder, scored, job.rewards, dict(job.settings.weights)
    )
    if rewards:
        rows = [row | {"rewards": rewards[row["file"]]} for row in rows]
        see = f"See {job.folder / scoring.SCORES}.failures.jsonl"
        _check_scored(job, rows, see)
    groups = _describe(job, rows, failed, identity, towers)
    if job.settings.features is not None:
        _measure_diversity(job, scored, groups)
    write_results(job.folder, rows, groups)
    job.claim.finish(manifest.dump(groups, request=request))
    _clean(job.folder)


def _has_leftovers(folder: Path) -> bool:
    names = _LOCK, PARTS, PARTIAL, scoring.INDEX, f"{scoring.SCORES}*", f"*{TEMPORARY}*"
    return any(path for name in names for path in folder.glob(name))


def _clean(folder: Path) -> None:
    """Remove from a finished folder what only work needs, and what a killed process left."""
    LocalFolder(folder).remove(PARTS)
    scoring.remove_working_files(folder)
    (folder / PARTIAL).unlink(missing_ok=True)
    for path in folder.glob(f"*{TEMPORARY}*"):
        remove_leftovers(folder / path.name.partition(TEMPORARY)[0])


def _measure_diversity(
    job: Job, images: Sequence[SuiteImage], groups: dict[str, dict[str, Any]]
) -> None:
    """Add the diversity of images to the groups of a manifest."""
    model = features.open_model(job.settings.features or MODEL)
    given = job.settings.reference
    reference = None if given is None else features.read_reference(given, model)
    found = features.encode(model, [image.read for image in images])
    texts, tags = zip(*((i.prompt.text, i.prompt.tag) for i in images), strict=True)
    name = features.name_of(model)
    metrics = features.measure(found, texts, tags, name, reference)
    features.save(job.folder, found, name)
    groups["result"]["metrics"] |= metrics
    groups["result"]["order"] += list(metrics)
    groups["images"]["features"] = features.describe_model(model, reference)


def _check_failed(job: Job, failed: Sequence[Mapping[str, Any]]) -> None:
    if failed and len(failed) == len(job.found.images):
        raise ValueError(
            f"An image at least must be readable; none of {len(failed)} is, the first is "
            f"{failed[0]['file']} ({failed[0]['cause']}). Sample them again, or mend their paths, "
            f"and delete {job.folder / PARTS}."
        )
    if failed and not job.settings.partial:
        first, are = failed[0], "is" if len(failed) == 1 else "are"
        raise ValueError(
            f"Every image must be readable; {len(failed)} {are} not, the first is "
            f"{first['file']} ({first['cause']}). Sample them again, delete {job.folder / PARTS}, "
            "or evaluate what can be read with --partial, which marks the result."
        )


def _check_scored(job: Job, rows: Sequence[Mapping[str, Any]], remedy: str) -> None:
    blank = [row["file"] for row in rows if None in row["rewards"].values()]
    if blank and not job.settings.partial:
        raise ValueError(
            f"Every image must get its rewards; {len(blank)} did not, the first is {blank[0]}. "
            f"{remedy}, or give --partial."
        )


def _describe(
    job: Job,
    rows: Sequence[Mapping[str, Any]],
    failed: Sequence[Mapping[str, Any]],
    identity: Mapping[str, Any],
    towers: Mapping[str, str],
) -> dict[str, Any]:
    """Return the groups of the manifest."""
    found, metrics = job.found, measure(job.suite, rows)
    sizes = Counter(f"{row['width']}x{row['height']}" for row in rows)
    formats = Counter(Path(row["file"]).suffix.lower().lstrip(".") for row in rows)
    groups = {
        "benchmark": job.suite.describe() | {"samples_per_prompt": found.per_prompt},
        "judge": dict(identity),
        "rewards": dict(towers),
        "images": {
            "sha256": digest_of_images(rows),
            "count": len(rows),
            "sizes": dict(sizes),
            "formats": dict(formats),
            "layout": found.layout,
            "path": str(Path(job.settings.what).expanduser()),
        },
        **describe_origin(job.settings.what, found.layout),
        "statistics": STATISTICS,
        "machine": describe_machine(),
        "result": describe_result(metrics, rows, found.missing, failed),
    }
    for key, value in job.settings.declare:
        group, _, name = key.partition(".")
        groups[group][name] = value
    return groups


def describe_machine() -> dict[str, Any]:
    """Return devices and versions, and the date."""
    devices = Counter(device.device_kind for device in jax.devices())
    return {
        "platform": jax.default_backend(),
        "devices": dict(devices),
        "matmul_precision": str(jax.config.jax_default_matmul_precision),
        "python": platform.python_version(),
        "miro_jax": __version__,
        "versions": {name: metadata.version(name) for name in _PACKAGES},
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def describe_origin(what: str, layout: str) -> dict[str, Any]:
    """Return the groups model, sampling and post_selection: known for images of ours alone."""
    selection = {"best_of": UNKNOWN, "prompt_rewriting": UNKNOWN}
    if layout != OURS:
        return {"model": {"name": UNKNOWN}, "sampling": {}, "post_selection": selection}
    path = Path(what).expanduser() / "manifest.json"
    made = read_json(path, {"request?": dict, "images": [{"file": str}]})
    request, first = made.get("request", {}), made["images"][0]
    known = ("solver", "num_steps", "guidance_scale", "guidance_interval", "targets")
    known += ("negative_targets", "negative_prompt", "seed", "dtype")
    sampling = {name: request.get(name, first.get(name, UNKNOWN)) for name in known}
    own = ("text_encoder", "vae")  # in place of the checkpoint's
    sampling |= {name: request[name] for name in own if request.get(name) is not None}
    best = request.get("reward") if request.get("verb") == "best" else "none"
    return {
        "model": {
            "name": first.get("checkpoint", UNKNOWN),
            "step": first.get("checkpoint_step"),
            "parameters": first.get("checkpoint_parameters", UNKNOWN),
            "averaged_weights": True,
        },
        "sampling": sampling | {"seed_rule": SEED_RULE, "guidance": "v+ + w (v+ - v-), 0 is none"},
        "post_selection": {"best_of": best, "prompt_rewriting": "none"},
    }
