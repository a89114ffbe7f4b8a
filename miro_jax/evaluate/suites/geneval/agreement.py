"""How far two judges agree on the same images: by tag, beyond chance, and why where they do not.

    agreement   share of images with the same verdict, with its interval over prompts
    kappa       (agreement - chance) / (1 - chance): Cohen's; chance is the agreement of two judges
                that call as many images correct, at random. None where both always say the same
    flips       images judged differently, by the rule that failed for whoever calls it wrong
    near        flips of which either judge had a decisive score within 0.01 of its threshold

Source: Cohen 1960, Educational and Psychological Measurement 20.
"""

import collections
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from miro_jax.data.json_file import parse_lines
from miro_jax.data.regular_file import read_regular
from miro_jax.evaluate.suites.geneval import people
from miro_jax.evaluate.suites.geneval.prompts import TAGS
from miro_jax.evaluate.suites.geneval.rows import is_near
from miro_jax.evaluate.suites.manifest import UNKNOWN
from miro_jax.evaluate.suites.rows import ROWS_NAME
from miro_jax.evaluate.suites.tables import align
from miro_jax.report import clustered

Row = Mapping[str, Any]
SCHEMA = {
    "key": str,
    "sample": int,
    "tag": str,
    "correct": bool,
    "sha256?": (str, None),
    "reasons?": [{"rule": str}],
    "margins?": {str: float},
}
OVERALL = "overall"
MOST_BYTES = 2**30


def read(path: str | Path) -> list[dict[str, Any]]:
    """Read a per-image file, or the folder of an evaluation that holds one.

    Raises:
      FileNotFoundError: there is none.
      ValueError: a line is no verdict, or an image stands there twice; the text names it.
    """
    path = Path(path).expanduser()
    path = path / ROWS_NAME if path.is_dir() else path
    if not path.is_file():
        raise FileNotFoundError(
            f"verdicts must be the folder of an evaluation of GenEval or its {ROWS_NAME}; there is "
            f"no file {path}. `miro-jax evaluate WHAT --suite=geneval` writes it."
        )
    data = read_regular(path, MOST_BYTES)
    try:
        rows = parse_lines(data, path, SCHEMA)
    except ValueError as error:
        text = "Verdicts are those of `miro-jax evaluate WHAT --suite=geneval`"
        raise ValueError(f"{str(error).rstrip('.')}. {text}.") from error
    if not rows:
        raise ValueError(f"{path} must hold verdicts of images; it is empty.")
    if twice := [key for key, count in collections.Counter(map(_key, rows)).items() if count > 1]:
        raise ValueError(f"{path} holds image {_name(twice[0])} twice.")
    return rows


def compare_files(*paths: str) -> dict[str, Any]:
    """Compare two files of verdicts, see `read`; one of both may hold annotations of people."""
    are_labels = [people.is_labels(path) for path in paths]
    sides = [
        people.read(path) if labels else read(path)
        for path, labels in zip(paths, are_labels, strict=True)
    ]
    if sum(are_labels) != 1:
        return compare(*sides)
    turn = -1 if are_labels[0] else 1
    *pair, facts = people.pair(*sides[::turn])
    return compare(*pair[::turn]) | {"people": facts}


def compare(first: Sequence[Row], second: Sequence[Row]) -> dict[str, Any]:
    """Compare the verdicts of two judges.

    Args:
      first, second: rows of the same images, in any order.

    Returns:
      tags: tag -> images, both, first, second, neither (who calls how many correct), agreement (its
      value, low and high), kappa and flips; and the same for OVERALL, whose agreement is of all
      images. `near` counts flips near a threshold.

    Raises:
      ValueError: the images are not the same.
    """
    pairs = _join(first, second)
    tags = {tag: own for tag in TAGS if (own := [p for p in pairs if p[0]["tag"] == tag])}
    found = {tag: _describe(own) for tag, own in tags.items()}
    return {"tags": found, OVERALL: _describe(pairs)}


def kappa(both: int, first: int, second: int, neither: int) -> float | None:
    """Return Cohen's kappa of a table of counts; None where chance alone agrees on everything."""
    total = both + first + second + neither
    agreed = (both + neither) / total
    a, b = (both + first) / total, (both + second) / total
    chance = a * b + (1 - a) * (1 - b)
    return None if chance == 1 else (agreed - chance) / (1 - chance)


def lines(result: Mapping[str, Any]) -> list[str]:
    """Write a result of `compare`, and of `people.pair` where there is one, as lines of text."""
    head = ("tag", "images", "both", "first", "second", "neither", "agreement", "95 %", "kappa")
    table: list[Sequence[str]] = [head]
    for tag, own in (*result["tags"].items(), (OVERALL, result[OVERALL])):
        counts = [str(own[name]) for name in ("images", "both", "first", "second", "neither")]
        share, beyond = own["agreement"], own["kappa"]
        interval = "-" if share["low"] is None else f"{share['low']:.3f} to {share['high']:.3f}"
        beyond = "-" if beyond is None else f"{beyond:.3f}"
        table.append((tag, *counts, f"{share['value']:.3f}", interval, beyond))
    text, whole = align(table), result[OVERALL]
    flips = ", ".join(f"{rule} {count}" for rule, count in whole["flips"].items()) or "none"
    text += [f"flips by rule: {flips}", f"of these near a threshold: {whole['near']}"]
    if facts := result.get("people"):
        raters = facts["raters"]
        pairs = "" if raters is None else f"; two raters of an image agree in {raters:.3f} of pairs"
        text.append(f"{facts['judged']} of {facts['labelled']} labelled images are judged{pairs}")
    return text


def _join(first: Sequence[Row], second: Sequence[Row]) -> list[tuple[Row, Row]]:
    """Pair the rows of each image; ValueError unless both have the same images."""
    ours, theirs = ({_key(row): row for row in rows} for rows in (first, second))
    if only := sorted(ours.keys() ^ theirs.keys()):
        where = "first" if only[0] in ours else "second"
        raise ValueError(
            f"both must judge the same images; {len(only)} are in one alone, such as "
            f"{_name(only[0])} in the {where}."
        )
    for key, row in ours.items():
        digests = {row.get("sha256"), theirs[key].get("sha256")}
        if len(digests - {None, UNKNOWN}) > 1:  # imported verdicts have no digests of images
            raise ValueError(f"both must judge the same images; {_name(key)} is another file.")
        if row["tag"] != theirs[key]["tag"]:
            raise ValueError(f"image {_name(key)} has the tags {row['tag']}, {theirs[key]['tag']}.")
    return [(ours[key], theirs[key]) for key in sorted(ours)]


def _describe(pairs: Sequence[tuple[Row, Row]]) -> dict[str, Any]:
    counts = collections.Counter((a["correct"], b["correct"]) for a, b in pairs)
    table = [counts[verdicts] for verdicts in _VERDICTS]
    same = [float(a["correct"] == b["correct"]) for a, b in pairs]
    clusters = clustered.cluster(same, [a["key"] for a, _ in pairs], [a["tag"] for a, _ in pairs])
    flipped = [(a, b) for a, b in pairs if a["correct"] != b["correct"]]
    rules = collections.Counter(_rule(b if a["correct"] else a) for a, b in flipped)
    return {
        "images": len(pairs),
        **dict(zip(("both", "first", "second", "neither"), table, strict=True)),
        "agreement": clustered.bootstrap(clusters, clustered.IMAGES),
        "kappa": kappa(*table),
        "flips": dict(rules.most_common()),
        "near": sum(any(map(is_near, pair)) for pair in flipped),
    }


_VERDICTS = ((True, True), (True, False), (False, True), (False, False))


def _rule(row: Row) -> str:
    """Return the rule that failed first; imported verdicts have none."""
    return next((reason["rule"] for reason in row.get("reasons", ())), UNKNOWN)


def _key(row: Row) -> tuple[str, int]:
    return row["key"], row["sample"]


def _name(key: tuple[str, int]) -> str:
    return f"{key[0]}/{key[1]}"
