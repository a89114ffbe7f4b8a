"""Evaluations side by side: values, paired differences to the first, tests of the whole table.

Differences are of the prompts that both have, their intervals resample prompts for both sides at
once, and p is that of sign flips, adjusted by Holm over all tests of the table. Numbers that may
not share a column are refused; forced, they are marked.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from miro_jax.cli.exit import UsageError
from miro_jax.data.json_file import holds
from miro_jax.data.printable import counted
from miro_jax.data.storage.files import check_own
from miro_jax.evaluate.suites import identity
from miro_jax.evaluate.suites.manifest import Evaluation
from miro_jax.evaluate.suites.measure import clusters_of
from miro_jax.evaluate.suites.tables import Cell, Table, cell_of
from miro_jax.report import clustered

SIGNIFICANT = 0.05
FORCED = " !"  # the mark of a number that does not belong into its column
NAME = "compare"  # of the files, of a comparison of networks too
_SCHEMAS = (
    {"names": [str], "rows": list, "notes": [str]},  # of evaluations
    {"before": dict, "after": dict, "requests": dict, "dials": dict},  # of networks
)


def check_free(folder: Path, ends: Sequence[str]) -> None:
    """Raise ValueError where a file would be replaced that no comparison made.

    What an earlier comparison made is known by its compare.json, which it wrote first.

    Args:
      folder: to be written into. ends: of the names of the files.
    """
    ours = any(holds(folder / f"{NAME}.json", schema) for schema in _SCHEMAS)
    check_own([folder / f"{NAME}{end}" for end in ends], ours)


def compare(
    evaluations: Sequence[Evaluation], metrics: Sequence[str] = (), force: bool = False
) -> dict[str, Any]:
    """Compare evaluations with the first of them.

    Args:
      metrics: names; none are all that every evaluation has.
      force: mark what may not share a column instead of refusing it.

    Returns:
      names, and rows: metric, tag ("" is the whole), values, differences (None for the first, and
      where there is none), each with p, p_holm, wins, ties, losses, correlation; notes.

    Raises:
      UsageError: nothing in common, or numbers of other identity.
    """
    first = evaluations[0]
    shared = [m for m in first.metrics if all(m in one.metrics for one in evaluations)]
    if unknown := [m for m in metrics if m not in shared]:
        raise UsageError(
            f"metric must be one that all evaluations have: {', '.join(shared) or 'none'}; got "
            f"{', '.join(unknown)}."
        )
    chosen = metrics or shared
    notes, marked = _check(evaluations, chosen, bool(metrics), force)
    rows = []
    for metric in [m for m in chosen if (m, None) not in marked]:
        have = [one.metrics[metric].get("tags", {}) for one in evaluations]
        tags = [tag for tag in have[0] if all(tag in own for own in have)]
        rows += [_row(evaluations, metric, tag, marked) for tag in ("", *tags)]
    if not rows:
        raise UsageError(_why_nothing(evaluations, chosen))
    found = [one for row in rows for one in row["differences"] if one]
    for one, p in zip(found, clustered.holm([one["p"] for one in found]), strict=True):
        one["p_holm"] = p
    if found:
        notes.append(
            f"p: sign flips within tags, Holm over the {counted(len(found), 'test')} of this table"
        )
    return {"names": [one.name for one in evaluations], "rows": rows, "notes": notes}


def _check(
    evaluations: Sequence[Evaluation], metrics: Sequence[str], named: bool, force: bool
) -> tuple[list[str], set[tuple[str, int | None]]]:
    """Return notes, and the (metric, number of an evaluation) that are marked, or (metric, None).

    A metric that was not requested by name is dropped where it cannot be compared.
    """
    notes, marked = [], set()
    for one in evaluations:
        if one.manifest["result"].get("partial"):
            notes.append(f"{one.name} is PARTIAL: it lacks images or scores of its suite")
    for number, one in enumerate(evaluations[1:], 1):
        for metric in metrics:
            if not (why := identity.why_no_column(evaluations[0], one, metric)):
                continue
            text = (
                f"{metric} of {evaluations[0].name} and of {one.name} may not share a column: "
                f"{identity.describe(why)}"
            )
            if named and not force:
                raise UsageError(f"{text}. --force shows them with a mark.")
            notes.append(text)
            marked.add((metric, number if force else None))
        if why := identity.why_no_difference(evaluations[0], one):
            notes.append(f"no difference to {one.name}: {identity.describe(why)}")
        elif one.manifest["result"].get("partial") and not all(
            (metric, number) in marked for metric in metrics
        ):
            count = counted(len(_common(evaluations[0], one)), "prompt")
            notes.append(f"the difference to {one.name} is over the {count} that both have")
    return notes, marked


def _common(first: Evaluation, second: Evaluation) -> set[tuple[str, str]]:
    """Return (tag, text) of the prompts of which both have images; see `measure.clusters_of`."""
    sides = [{(row["tag"], row["prompt"]) for row in one.rows} for one in (first, second)]
    return sides[0] & sides[1]


def _why_nothing(evaluations: Sequence[Evaluation], metrics: Sequence[str]) -> str:
    """Say why no metric can be compared."""
    for one in evaluations[1:]:
        for metric in metrics:
            if why := identity.why_no_column(evaluations[0], one, metric):
                return (
                    f"numbers of {evaluations[0].name} and of {one.name} may not share a column: "
                    f"{identity.describe(why)}. --force shows them with a mark."
                )
    listed = "; ".join(f"{one.name} has {', '.join(one.metrics) or 'none'}" for one in evaluations)
    return f"the evaluations must have a metric in common; {listed}."


def _row(
    evaluations: Sequence[Evaluation], metric: str, tag: str, marked: set[tuple[str, int | None]]
) -> dict[str, Any]:
    values = [
        one.metrics[metric]["tags"][tag] if tag else one.metrics[metric] for one in evaluations
    ]
    differences: list[dict[str, Any] | None] = [None]
    for number, one in enumerate(evaluations[1:], 1):
        forced = (metric, number) in marked
        differences.append(None if forced else _difference(evaluations[0], one, metric, tag))
    kept = [{k: value.get(k) for k in ("value", "low", "high")} for value in values]
    for number, value in enumerate(kept):
        value["forced"] = (metric, number) in marked
    return {"metric": metric, "tag": tag, "values": kept, "differences": differences}


def _difference(
    first: Evaluation, second: Evaluation, metric: str, tag: str
) -> dict[str, Any] | None:
    if identity.why_no_difference(first, second):
        return None
    benchmark, common = first.manifest["benchmark"], _common(first, second)
    sides = []
    for one in (first, second):
        rows = [row for row in one.rows if (row["tag"], row["prompt"]) in common]
        sides.append(clusters_of(rows, metric, benchmark.get("score", "")))
    if not all(sides):
        return None
    described = first.metrics[metric]
    estimator = described["tags"][tag]["estimator"] if tag else described["estimator"]
    if tag:
        sides = [{name: side[name] for name in side if name == tag} for side in sides]
    elif estimator == clustered.TAGS and sides[0].keys() != benchmark["tags"].keys():
        return None  # the mean of the other tags would be another number
    try:
        pair = clustered.compare(*sides, estimator)
    except ValueError:  # a partial set lacks the values of a tag
        return None
    return pair.difference | {
        "p": pair.p,
        "correlation": pair.correlation,
        "wins": pair.wins,
        "ties": pair.ties,
        "losses": pair.losses,
    }


def table_of(result: dict[str, Any]) -> Table:
    """Return a comparison as a table; the better of two is bold where the difference is sure."""
    names, rows = result["names"], []
    columns = ["metric", names[0]]
    for name in names[1:]:
        columns += [name, "difference", "p (Holm)", "won/tied/lost"]
    for row in result["rows"]:
        line: list[str | Cell] = [f"  {row['tag']}" if row["tag"] else row["metric"]]
        pairs = list(zip(row["values"], row["differences"], strict=True))
        sure = [one["value"] for _, one in pairs if one and one["p_holm"] < SIGNIFICANT]
        line.append(cell_of(pairs[0][0], bold=bool(sure) and max(sure) < 0))
        for value, one in pairs[1:]:
            better = bool(one) and one["p_holm"] < SIGNIFICANT and one["value"] > 0
            line.append(cell_of(value, bold=better, note=FORCED * value["forced"]))
            if one is None:
                line += ["-", "-", "-"]
                continue
            star = " *" if one["p_holm"] < SIGNIFICANT else ""
            line.append(cell_of(one, note=star))
            line += [f"{one['p_holm']:.2g}", f"{one['wins']}/{one['ties']}/{one['losses']}"]
        rows.append(line)
    notes = ["95 % intervals over prompts; * beyond chance", *result["notes"]]
    return Table(" and ".join(names), columns, rows, notes)
