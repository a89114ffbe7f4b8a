"""Published values that a result is held against: `miro-jax check EXPECTED RESULT`.

A file of expected values is

    {"models": {NAME: {BENCHMARK: {"samples_per_prompt": 4, "metrics": {METRIC:
        {"value": 0.677, "tolerance": 0.025, "tags": {TAG: {...}}}}}}}}

"unknown" where the source does not say. A value that cannot be compared is no failure and no
success: the field that prevents it is named. Of a file that comes with the package the values stand
with the plots of them, in `plots/published/`; `expected/` adds tolerances and names of models.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from miro_jax.data.json_file import read_json
from miro_jax.evaluate.suites.manifest import UNKNOWN, Evaluation

FOLDER = Path(__file__).parent / "expected"
_PUBLISHED = Path(__file__).parents[1] / "plots" / "published"
PASS, FAIL, NOT_COMPARABLE = "pass", "fail", "not comparable"
_VALUE = {"value": float, "tolerance": float}
SCHEMA = {
    "models": {
        str: {
            str: {
                "samples_per_prompt": (int, str),
                "metrics": {str: _VALUE | {"tags?": {str: _VALUE}}},
            }
        }
    }
}

_MODELS = {"models": {str: {str: float}}}
_NUMBERS = {
    "measures": {str: {"identity": str}},
    **dict.fromkeys(("radar", "geneval"), _MODELS),
    "synthetic": dict.fromkeys(("rewards", "geneval"), _MODELS),
}
_SUITE = {"samples_per_prompt": (int, str), "tolerances": {str: float}}
_LISTED = {"models": {str: str}, "unchecked": {str: [str]}} | dict.fromkeys(
    ("geneval", "parti"), _SUITE
)


def names() -> list[str]:
    """Return the names of the files that come with the package."""
    return sorted(path.stem for path in FOLDER.glob("*.json"))


def read(source: str) -> dict[str, Any]:
    """Read expected values, by the path of a file or the name of one that comes with the package.

    Raises:
      FileNotFoundError: there is none; the names are listed. ValueError: it holds something else.
    """
    if source in names():
        return _published(source)
    path = Path(source).expanduser()
    if not path.is_file():
        raise FileNotFoundError(
            f"EXPECTED must be a file of expected values, or one of {', '.join(names())}; got "
            f"{source!r}."
        )
    return read_json(path, SCHEMA)


def _published(name: str) -> dict[str, Any]:
    """Return published values, in the form of a file, with the tolerances of the package."""
    listed = read_json(FOLDER / f"{name}.json", _LISTED)
    numbers = read_json(_PUBLISHED / f"{name}.json", _NUMBERS)
    synthetic, geneval, parti = numbers["synthetic"], listed["geneval"], listed["parti"]
    rewards = numbers["radar"]["models"] | synthetic["rewards"]["models"]
    percents = numbers["geneval"]["models"] | synthetic["geneval"]["models"]
    models: dict[str, Any] = {}
    for model, label in listed["models"].items():
        shares = {tag: round(value / 100, 4) for tag, value in percents[label].items()}
        overall = sum(shares.values()) / len(shares)
        unchecked = listed["unchecked"].get(model, ())
        checked = {key: v for key, v in rewards[label].items() if key not in unchecked}
        tags = {tag: _value(value, geneval, tag) for tag, value in shares.items()}
        models[model] = {
            "geneval@1": {
                "samples_per_prompt": geneval["samples_per_prompt"],
                "metrics": {"overall": _value(overall, geneval, "overall") | {"tags": tags}},
            },
            "parti@1": {
                "samples_per_prompt": parti["samples_per_prompt"],
                "metrics": {
                    numbers["measures"][key]["identity"]: _value(value, parti, key)
                    for key, value in checked.items()
                },
            },
        }
    return {"models": models}


def _value(value: float, suite: Mapping[str, Any], name: str) -> dict[str, float]:
    return {"value": value, "tolerance": suite["tolerances"][name]}


def check(expected: Mapping[str, Any], evaluation: Evaluation, model: str) -> list[dict[str, Any]]:
    """Hold a result against the expected values of a model.

    Returns:
      For each expected value: metric, tag, expected, tolerance, got, verdict and why.

    Raises:
      ValueError: the model is unknown, or has no values of this benchmark; the known are listed.
    """
    models, benchmark = expected["models"], evaluation.manifest["benchmark"]
    if model not in models:
        raise ValueError(f"--model must be one of {', '.join(sorted(models))}; got {model!r}.")
    own = models[model]
    if benchmark["name"] not in own:
        raise ValueError(
            f"{model} has expected values of {', '.join(sorted(own))}; the result is of "
            f"{benchmark['name']}."
        )
    wanted = own[benchmark["name"]]
    problem = _problem(wanted, evaluation)
    return [_check(evaluation, problem, *value) for value in _values(wanted["metrics"])]


def _values(metrics: Mapping[str, Any]) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    for metric, value in metrics.items():
        yield metric, "", value
        for tag, one in value.get("tags", {}).items():
            yield metric, tag, one


def _problem(wanted: Mapping[str, Any], evaluation: Evaluation) -> str:
    """Return why no value of a result can be compared, or an empty string."""
    samples = evaluation.manifest["benchmark"].get("samples_per_prompt")
    if wanted["samples_per_prompt"] not in (UNKNOWN, samples):
        return f"benchmark.samples_per_prompt is {samples}, not {wanted['samples_per_prompt']}"
    return "result.partial is true" if evaluation.manifest["result"].get("partial") else ""


def _check(
    evaluation: Evaluation, problem: str, metric: str, tag: str, value: Mapping[str, Any]
) -> dict[str, Any]:
    found = evaluation.metrics.get(metric, {})
    found = found.get("tags", {}).get(tag, {}) if tag else found
    got, why = found.get("value"), problem
    if got is None:
        why = why or f"result.metrics has no {metric}{f' of {tag}' if tag else ''}"
    judge = evaluation.manifest["judge"]
    if not why and metric not in evaluation.manifest["rewards"] and judge.get("name") == UNKNOWN:
        why = "judge.name is unknown"
    verdict = NOT_COMPARABLE if why else FAIL
    if not why and got is not None and abs(got - value["value"]) <= value["tolerance"]:
        verdict = PASS
    return {
        "metric": metric,
        "tag": tag,
        "expected": value["value"],
        "tolerance": value["tolerance"],
        "got": got,
        "verdict": verdict,
        "why": why,
    }
