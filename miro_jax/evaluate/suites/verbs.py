"""`miro-jax compare`, `diff`, `check`, `import`, `agreement` of what is written already.

No image is read again, no device is used. `compare` of runs and releases, which samples, stands in
`evaluate.compare_command`; it hands over here where both sides are evaluations.
"""

import dataclasses
from argparse import Namespace
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from miro_jax.cli import exit as exits
from miro_jax.cli.flags import Parser, add_flags, option, split_names
from miro_jax.data.json_file import dump_json
from miro_jax.data.storage import open_folder
from miro_jax.data.storage.files import to_json, write_atomic
from miro_jax.evaluate import suites
from miro_jax.evaluate.suites import (
    comparison,
    difference,
    expected,
    importing,
    manifest,
    pages,
    tables,
)
from miro_jax.evaluate.suites.geneval import agreement
from miro_jax.evaluate.suites.settings import parse_pair

NOTHING_COMPARABLE = 3  # exit status of check


@dataclasses.dataclass(frozen=True)
class _Verb:
    description: str
    epilog: str
    add: Callable[[Parser], Any]
    run: Callable[[Namespace], object]  # its exit status, where it is another than DONE
    statuses: dict[str, str] = dataclasses.field(default_factory=dict)  # see `Parser`


def main(arguments: Sequence[str]) -> int:
    """Run a verb, the first word; returns the exit status, see `cli.exit` and `_check`."""
    verb, *words = arguments

    def plan() -> Namespace:
        chosen = _VERBS[verb]
        parser = Parser(
            verb, description=chosen.description, epilog=chosen.epilog, **chosen.statuses
        )
        chosen.add(parser)
        return parser.read(words)

    # Everything is an argument here: what is wrong with a file is the fault of who named it.
    return exits.run(verb, plan, lambda given: _VERBS[verb].run(given), exits.MISTAKES)


def concerns_evaluations(words: Sequence[str]) -> bool:
    """Return whether a command line of `compare` is about evaluations: by its paths or flags.

    One evaluation among the paths is enough: what is wrong with the others is then said of them.
    """
    paths = [word for word in words if not word.startswith("-")]
    flags = {word.partition("=")[0] for word in words if word.startswith("-")}
    ours = not flags.isdisjoint(("--metrics", "--format", "--force"))
    return ours or any(map(manifest.is_evaluation, paths))


def _add_compare(parser: Parser) -> None:
    parser.add_argument("evaluations", metavar="EVALUATION", nargs="+", help="two or more folders")
    parser.add_argument(
        "--metrics", type=split_names, default=(), metavar="A,B", help="of them (default: all)"
    )
    parser.add_argument("--format", choices=tables.FORMS, default="text", help="of what is printed")
    parser.add_argument("--force", action="store_true", help="mark what is not comparable")
    parser.add_argument("--out", metavar="DIR", help="also write all formats and a page there")


def _compare(given: Namespace) -> None:
    if len(given.evaluations) < 2:
        raise exits.UsageError("at least two evaluations must be given.")
    folder = Path(given.out).expanduser() if given.out else None
    if folder is not None:
        open_folder(folder)  # raises where it is a file
        comparison.check_free(folder, (".json", *tables.ENDINGS.values(), ".html"))
    read = [manifest.read(path) for path in given.evaluations]
    result = comparison.compare(read, given.metrics, given.force)
    made = comparison.table_of(result)
    exits.say(tables.render(made, given.format).rstrip("\n"))
    if folder is not None:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomic(folder / "compare.json", to_json(result))  # first, see `check_free`
        tables.write_all(folder, comparison.NAME, made)
        write_atomic(folder / "compare.html", pages.render_comparison(read, result))
        exits.say(f"page: {folder / 'compare.html'}")


def _add_pair(parser: Parser, first: str, second: str) -> None:
    parser.add_argument("first", metavar="A", help=first)
    parser.add_argument("second", metavar="B", help=second)
    parser.add_argument("--format", choices=("text", "json"), default="text", help="of the output")


def _diff(given: Namespace) -> None:
    result = difference.diff(manifest.read(given.first), manifest.read(given.second))
    _print(result, difference.lines, given.format)


def _print(result: dict[str, Any], lines: Callable[[Any], list[str]], form: str) -> None:
    exits.say(dump_json(result, indent=1) if form == "json" else "\n".join(lines(result)))


def _add_check(parser: Parser) -> None:
    parser.add_argument(
        "expected", metavar="EXPECTED", help=f"file, or one of {', '.join(expected.names())}"
    )
    parser.add_argument("result", metavar="RESULT", help="folder of an evaluation")
    parser.add_argument("--model", required=True, help="whose values, such as miro_synthetic")


def _check(given: Namespace) -> int:
    evaluation = manifest.read(given.result)
    rows = expected.check(expected.read(given.expected), evaluation, given.model)
    lines: list[list[str | tables.Cell]] = [
        [
            f"  {row['tag']}" if row["tag"] else row["metric"],
            f"{row['expected']:.5g} +- {row['tolerance']:.3g}",
            "-" if row["got"] is None else f"{row['got']:.5g}",
            row["verdict"] + (f": {row['why']}" if row["why"] else ""),
        ]
        for row in rows
    ]
    title = f"{given.model} of {given.expected} and {given.result}"
    made = tables.Table(title, ("metric", "expected", "got", "verdict"), lines)
    exits.say(tables.render(made, "text").rstrip("\n"))
    verdicts = {row["verdict"] for row in rows}
    if expected.FAIL in verdicts:
        return exits.FAILED
    return exits.DONE if expected.PASS in verdicts else NOTHING_COMPARABLE


@dataclasses.dataclass(frozen=True, kw_only=True)
class _ImportSettings:
    """Flags of `import`; files are its words."""

    files: tuple = option(positional=True, metavar="FILE", help="results.jsonl, rewards.jsonl")
    suite: str = option(help="geneval, parti or a file of prompts")
    out: str = option(metavar="DIR", help="folder of the evaluation")
    images_per_prompt: int | None = option(
        None, at_least=1, metavar="N", help="images of each prompt (default: the suite's rule)"
    )
    partial: bool = option(False, help="accept a set that lacks images")
    judge: tuple = option(
        (),
        repeat=True,
        parse=parse_pair,
        metavar="KEY=VALUE",
        help="what is known of who judged, such as name=geneval-mmdet2; may be repeated",
    )


def _import(given: Namespace) -> None:
    suite = suites.table.make_suite(given.suite)
    out = Path(given.out).expanduser()
    suites.work.check_out(out)
    evaluation = importing.import_results(
        given.files, suite, out, dict(given.judge), given.images_per_prompt, given.partial
    )
    exits.say(tables.render(tables.table_of(evaluation), "text") + f"results: {out}")


def _agreement(given: Namespace) -> None:
    result = agreement.compare_files(given.first, given.second)
    _print(result, agreement.lines, given.format)


_VERBS = {
    "compare": _Verb(
        "Compare evaluations of the same suite with the first of them: paired differences with "
        "intervals and tests.",
        "example:\n  miro-jax compare out/a/evals/parti@1 out/b/evals/parti@1 --out=out/compared",
        _add_compare,
        _compare,
    ),
    "diff": _Verb(
        "Print why two evaluations differ: fields of their manifests by likely effect, and the "
        "prompts that changed most.",
        "example:\n  miro-jax diff out/a/evals/geneval@1 out/b/evals/geneval@1",
        partial(_add_pair, first="folder of an evaluation", second="folder of another one"),
        _diff,
    ),
    "check": _Verb(
        "Hold a result against published values.",
        "example:\n  miro-jax check miro_2510.25897 evals/miro/geneval@1 --model=miro_synthetic",
        _add_check,
        _check,
        {
            "done": "all that can be compared passes",
            "failed": "a value fails, 3 nothing can be compared",
        },
    ),
    "import": _Verb(
        "Read results of the original tools (GenEval's results.jsonl, rewards.jsonl of the "
        "authors' scorers) into an evaluation.",
        "example:\n  miro-jax import results.jsonl rewards.jsonl --suite=geneval --out=out/theirs",
        lambda parser: add_flags(parser, _ImportSettings),
        _import,
    ),
    "agreement": _Verb(
        "Say how far two judges of GenEval agree on the same images: by tag, with Cohen's\nkappa, "
        "and which rule failed where they do not. No image is read and no device is used.",
        "A and B are folders of evaluations or their images.jsonl; or one of them is a file of\n"
        "the benchmark's own annotations: then the images that people labelled are compared.\n\n"
        "examples:\n  miro-jax agreement evals/mmdet evals/hf\n"
        "  miro-jax agreement evals/geneval@1 annotations_sdv2.csv",
        partial(
            _add_pair,
            first="verdicts of one judge",
            second="verdicts of another one, or of people",
        ),
        _agreement,
    ),
}
