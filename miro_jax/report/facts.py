"""What a run's folder holds, read for the report."""

import dataclasses
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeVar

from miro_jax.data.json_file import read_json
from miro_jax.data.regular_file import open_regular
from miro_jax.report.metric_lines import FILE as METRICS_FILE
from miro_jax.report.metric_lines import read_metrics
from miro_jax.report.results import GenEval, Result
from miro_jax.rewards.names import short_name

R = TypeVar("R", bound=Result)

EVALUATIONS = "evaluation.json"
_CONFIG = {
    "rewards": [str],
    "data": {"train_rewards": [str]},
    "train": {"batch_size": int},
    "sample": {"num_steps": int, "solver": str, "guidance_scale": float, "negative": str},
    "evaluate": {"categories": [str]},
}
_RUN = {"devices?": [str], "packages?": {str: str}, "command?": str, "git_revision?": (str, None)}
_EVALUATION = {
    "step": int,
    "shapes?": bool,
    "results?": {str: dict},
    "rewards?": [str],
    "num_parameters?": int,
    "prompts?": {"source": str},
    "beside?": {"name": str, "step": int, "geneval": dict},
    "training?": {"num_records": int, "rewards": {str: {"mean": float, "std": float}}},
}


@dataclasses.dataclass(frozen=True)
class Facts:
    """A run as read from its folder.

    Attributes:
      folder: the run's folder.
      config: `config.json`. run: `run.json`.
      metrics: one dict a logged step, ascending.
      evaluation: the last entry of `evaluation.json`, or {}.
    """

    folder: Path
    config: dict[str, Any]
    run: dict[str, Any]
    metrics: list[dict[str, float]]
    evaluation: dict[str, Any]

    def result(self, kind: type[R]) -> R | None:
        """Return the result of an evaluator, such as `Dials`; None if it did not run."""
        values = self.evaluation.get("results", {}).get(kind.evaluator)
        name = f"{self.folder / EVALUATIONS}: the result of {kind.evaluator}"
        return None if values is None else kind.from_json(values, name)

    @property
    def beside(self) -> tuple[str, GenEval] | None:
        """The name and table of a network whose numbers stand beside those of the run."""
        other = self.evaluation.get("beside")
        if other is None:
            return None
        name = f"{self.folder / EVALUATIONS}: the table beside"
        return other["name"], GenEval.from_json(other["geneval"], name)

    def series(self, name: str) -> tuple[list[float], list[float]]:
        """Return the steps and values of one metric."""
        rows = [row for row in self.metrics if name in row]
        return [row["step"] for row in rows], [row[name] for row in rows]

    @property
    def step(self) -> int:
        """Step of the evaluated checkpoint, else the last logged one."""
        if self.evaluation:
            return self.evaluation["step"]
        return int(self.metrics[-1]["step"]) if self.metrics else 0

    @property
    def rewards(self) -> list[str]:
        """Short names of all rewards of the run, in the config's order."""
        return [short_name(name) for name in self.config["rewards"]]

    @property
    def is_shapes(self) -> bool:
        """Whether the run is trained on the shapes world, as earlier evaluations all were."""
        return self.evaluation.get("shapes", True)

    @property
    def training(self) -> dict[str, dict[str, float]]:
        """Mean and std of each reward of the training data, as far as an evaluation has them."""
        return self.evaluation.get("training", {}).get("rewards", {})

    @property
    def training_seconds(self) -> float | None:
        """Time in training steps, from the logged throughput; previews and saving not counted."""
        steps, speeds = self.series("images_per_second")
        if not steps:
            return None
        batch = self.config["train"]["batch_size"]
        before = [0.0, *steps[:-1]]
        return sum((s - b) * batch / v for s, b, v in zip(steps, before, speeds, strict=True))

    def image(self, name: str, digest: str | None = None) -> bytes:
        """Return a PNG file of the evaluation.

        Raises:
          FileNotFoundError: it is missing. ValueError: it has not the digest that was recorded.
        """
        path = self.folder / "evaluation" / f"step-{self.step:06d}" / name
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; the evaluate stage writes it.")
        with open_regular(path) as file:
            data = file.read()
        if digest not in (None, hashlib.sha256(data).hexdigest()):
            raise ValueError(f"{path} is damaged; the evaluate stage writes it again.")
        return data


def in_order(names: Iterable[str], order: Iterable[str]) -> list[str]:
    """Return names as a list orders them, others last: a JSON file has them by the alphabet."""
    rank = {name: number for number, name in enumerate(order)}
    return sorted(names, key=lambda name: rank.get(name, len(rank)))


def read_facts(workdir: Path) -> Facts:
    """Read a run's folder.

    Raises:
      FileNotFoundError: `config.json` or `run.json` is missing.
    """
    workdir = Path(workdir)
    path = workdir / EVALUATIONS
    entries = read_json(path, [_EVALUATION]) if path.exists() else []
    return Facts(
        folder=workdir,
        config=_read_json(workdir / "config.json", _CONFIG),
        run=_read_json(workdir / "run.json", _RUN),
        metrics=read_metrics(workdir) if (workdir / METRICS_FILE).exists() else [],
        evaluation=entries[-1] if entries else {},
    )


def _read_json(path: Path, schema: Any) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; every stage writes it into a run's folder.")
    return read_json(path, schema)
