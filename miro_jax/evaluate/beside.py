"""Another network's numbers, to be shown beside those of a run: a folder, a file, or a record.

Numbers of other prompts, numbers of images or ways to sample do not stand in one table: then the
page goes without.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from miro_jax.data.json_file import read_json
from miro_jax.evaluate.kept import same_prompts
from miro_jax.report.facts import EVALUATIONS
from miro_jax.report.results import GenEval

RECORDED = Path(__file__).parent / "recorded"  # evaluations that come with the package
_SCHEMA = [{"step": int, "settings": dict, "prompts": dict, "results": {str: dict}}]
log = logging.getLogger("miro_jax")


def recorded() -> list[str]:
    """Return the names of the recorded evaluations."""
    return sorted(path.stem for path in RECORDED.glob("*.json"))


def find(source: str) -> Path:
    """Return the file of `config.evaluate.beside`.

    Raises:
      FileNotFoundError: there is none; the recorded names are listed.
    """
    path = RECORDED / f"{source}.json" if source in recorded() else Path(source)
    path = path / EVALUATIONS if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            "config.evaluate.beside must be a run's folder with its evaluation.json, such a file, "
            f"or one of {', '.join(recorded())}; got {source!r}."
        )
    return path


def read(source: str, entry: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what stands beside an evaluation: name, step and the GenEval-like table.

    Args:
      source: `config.evaluate.beside`; empty is nothing.
      entry: of `evaluation.json`, the evaluation that it is to stand beside.

    Returns:
      None where there is nothing, or nothing that may be compared.
    """
    if not source:
        return None
    path = find(source)
    others = read_json(path, _SCHEMA)
    if not others:
        raise ValueError(f"{path} must hold an evaluation; it holds none. Evaluate that run first.")
    other = others[-1]
    table = other["results"].get(GenEval.evaluator)
    if table is None:
        log.warning("%s has no %s: nothing is shown beside this run", path, GenEval.evaluator)
        return None
    if different := [name for name, same in _compared(entry, other).items() if not same]:
        text = "%s was made with another %s: it is not shown beside this run"
        log.warning(text, path, " and ".join(different))
        return None
    return {"name": source, "step": other["step"], GenEval.evaluator: table}


def _compared(entry: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, bool]:
    """Say of each thing that numbers depend on whether it is the same."""
    ours, theirs = (
        {**e["settings"]["sample"], **e["settings"]["evaluate"]} for e in (entry, other)
    )
    keys = ("num_steps", "solver", "seed", "guidance_scale", "images_per_prompt")
    same = {key: ours.get(key) == theirs.get(key) for key in keys}
    return {"list of prompts": same_prompts(entry, other), **same}
