"""What a run's folder says about the run, read for the report."""

import base64
import dataclasses
import json
from pathlib import Path
from typing import Any

from miro_jax.report.metric_lines import FILE as METRICS_FILE
from miro_jax.report.metric_lines import read_metrics


@dataclasses.dataclass(frozen=True)
class Facts:
    """A run as read from its folder.

    Attributes:
      folder: the run's folder.
      config: `config.json`. run: `run.json`.
      metrics: one dict a logged step, ascending.
      evaluation: the last entry of `evaluation.json`, or None.
    """

    folder: Path
    config: dict[str, Any]
    run: dict[str, Any]
    metrics: list[dict[str, float]]
    evaluation: dict[str, Any] | None

    def result(self, name: str) -> dict[str, Any] | None:
        """Return the result of an evaluator; None if it did not run."""
        return self.evaluation["results"].get(name) if self.evaluation else None

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
        """Names of all rewards of the run."""
        return list(self.config["rewards"])

    @property
    def training_seconds(self) -> float | None:
        """Time in training steps, from the logged throughput; previews and saving not counted."""
        steps, speeds = self.series("images_per_second")
        if not steps:
            return None
        batch = self.config["train"]["batch_size"]
        before = [0.0, *steps[:-1]]
        return sum((s - b) * batch / v for s, b, v in zip(steps, before, speeds, strict=True))

    def picture(self, name: str) -> str:
        """Return a PNG of the evaluation as a data URI.

        Raises:
          FileNotFoundError: it is missing; the evaluate stage writes it.
        """
        path = self.folder / "evaluation" / f"step-{self.step:06d}" / name
        if not path.exists():
            raise FileNotFoundError(f"{path} is missing; the evaluate stage writes it.")
        return "data:image/png;base64," + base64.b64encode(path.read_bytes()).decode("ascii")


def read_facts(workdir: Path) -> Facts:
    """Read a run's folder.

    Raises:
      FileNotFoundError: `config.json` or `run.json` is missing.
    """
    workdir = Path(workdir)
    evaluations = workdir / "evaluation.json"
    return Facts(
        folder=workdir,
        config=_read_json(workdir / "config.json"),
        run=_read_json(workdir / "run.json"),
        metrics=read_metrics(workdir) if (workdir / METRICS_FILE).exists() else [],
        evaluation=_read_json(evaluations)[-1] if evaluations.exists() else None,
    )


def _read_json(path: Path) -> Any:
    if not path.exists():
        raise FileNotFoundError(f"{path} is missing; every stage writes it into a run's folder.")
    return json.loads(path.read_text("utf-8"))
