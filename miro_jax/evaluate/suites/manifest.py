"""What every number of a suite carries: `evaluation.json`, groups of plain JSON.

    benchmark        name and version, digest of the prompts, their number by tag, estimator
    judge            identity of what decides about single images; {} where rewards are all
    rewards          identity -> the towers (weights, preprocessing, precision) it was computed with
    images           digest of all, number, sizes, formats, of each prompt, where they were
    model            checkpoint or folder, step, parameters, averaged weights; "unknown" for foreign
                     images
    sampling         solver, steps, guidance, targets, negative branch, seed and seed rule; text
                     encoder and VAE where they are not the checkpoint's
    post_selection   best-of-N and prompt rewriting
    statistics       interval, resamples, seed
    machine          devices and versions
    result           numbers with intervals, counts, per-image file and its digest

What is not known is the text "unknown", never a guess. The file is sealed: one that was changed
after it was written is refused.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any

from miro_jax.data.storage import open_folder
from miro_jax.data.storage.files import to_sealed_json
from miro_jax.evaluate.suites.rows import read_rows
from miro_jax.report.suite_curves import EVALS, INTERVAL

NAME = "evaluation.json"
IMPORTED = "imported"  # images.layout of results whose images were elsewhere
UNKNOWN = "unknown"
FORMAT = 1
_WRITES = "`miro-jax evaluate {} --suite=NAME` writes it."
GROUPS = (
    *("benchmark", "judge", "rewards", "images", "model", "sampling"),
    *("post_selection", "statistics", "machine", "result"),
)
SCHEMA = {"format": int, **dict.fromkeys(GROUPS, dict)} | {
    "benchmark": {"name": str, "prompts": int, "prompts_sha256": str, "tags": {str: int}},
    "rewards": {str: str},
    "result": {
        "metrics": {str: INTERVAL | {"tags?": {str: INTERVAL}}},
        "images": int,
        "file?": {"name": str, "sha256": str},
    },
}


@dataclasses.dataclass(frozen=True)
class Evaluation:
    """A finished evaluation of a suite.

    name: as it was given, for messages and tables. folder: holds its files. manifest: its groups.
    """

    name: str
    folder: Path
    manifest: Mapping[str, Any]

    @cached_property
    def rows(self) -> list[dict[str, Any]]:
        """The per-image file; see `rows.read_rows`. Without one, no rows."""
        file = self.manifest["result"].get("file")
        return read_rows(open_folder(self.folder), file["sha256"]) if file else []

    def path_of(self, row: Mapping[str, Any]) -> Path:
        """Return where the image of a row was when it was evaluated; its name if it is unknown."""
        if self.manifest["images"].get("layout") == IMPORTED:
            return Path(row["file"])
        path = Path(self.manifest["images"].get("path", ""))  # a folder, or a table in one
        return (path if path.is_dir() else path.parent) / row["file"]

    @property
    def metrics(self) -> dict[str, Any]:
        """Metric -> value, low, high, and the same by tag, both in the order of the suite."""
        result, tags = self.manifest["result"], self.manifest["benchmark"].get("tag_order", ())
        metrics = _in_order(result["metrics"], result.get("order", ()))
        return {
            name: one | {"tags": _in_order(one["tags"], tags)} if "tags" in one else dict(one)
            for name, one in metrics.items()
        }


def _in_order(values: Mapping[str, Any], names: Iterable[str]) -> dict[str, Any]:
    """Return a mapping in an order that JSON does not keep, what is not named last."""
    return {name: values[name] for name in names if name in values} | dict(values)


def dump(groups: Mapping[str, Any], **more: Any) -> bytes:
    """Return the content of the file; every group must be there, `more` stands beside them."""
    known = {name: dict(groups[name]) for name in GROUPS}
    return to_sealed_json({"format": FORMAT, **known, **more})


def is_evaluation(path: str | Path) -> bool:
    """Return whether a path is a finished evaluation of a suite: its folder, or the file."""
    try:
        read(path)
    except (OSError, ValueError):
        return False
    return True


def read(path: str | Path) -> Evaluation:
    """Read an evaluation by its folder, or by its file.

    Raises:
      FileNotFoundError: there is none. Damaged: it was changed.
      ValueError: it is something else, or of a newer format.
    """
    folder = Path(path).expanduser()
    folder = folder.parent if folder.name == NAME else folder
    if (folder / "checkpoints").is_dir():
        made = sorted(str(one.parent) for one in folder.glob(f"{EVALS}/**/{NAME}"))
        raise ValueError(
            f"{path} must be the folder of an evaluation of a suite; it is that of a run. "
            + (f"Give {' or '.join(made[:3])}." if made else _WRITES.format(path))
        )
    if not (folder / NAME).is_file():
        raise FileNotFoundError(
            f"{path} must be the folder of an evaluation, with {NAME}; "
            f"{'it has none' if folder.exists() else 'it is missing'}. {_WRITES.format('WHAT')}"
        )
    found = open_folder(folder)
    if (written := found.read_json(NAME, {"format": int})["format"]) > FORMAT:
        raise ValueError(
            f"{folder / NAME} must be of format {FORMAT} or older; it is of format {written}, "
            "which a newer miro_jax wrote. Update this one."
        )
    return Evaluation(str(path), folder, found.read_json(NAME, SCHEMA))
