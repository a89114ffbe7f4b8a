"""`miro-jax agreement A B`: two judges on the same images."""

import sys
from argparse import Namespace
from collections.abc import Sequence
from typing import Any

from miro_jax.cli import exit, flags
from miro_jax.data.json_file import dump_json
from miro_jax.evaluate.suites.geneval import agreement, people

VERB = "agreement"
_DESCRIPTION = """Say how far two judges of GenEval agree on the same images: by tag, with Cohen's
kappa, and which rule failed where they do not. No image is read and no device is used."""
_EPILOG = """A and B are folders of evaluations or their images.jsonl; or one of them is a file of
the benchmark's own annotations: then the images that people labelled are compared.

examples:
  miro-jax agreement evals/mmdet evals/hf
  miro-jax agreement evals/geneval@1 annotations_sdv2.csv
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status, see `cli.exit`."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return exit.run(VERB, lambda: _plan(words), _print, mistakes_at_work=exit.MISTAKES)


def _plan(words: Sequence[str]) -> Namespace:
    parser = flags.Parser(prog=exit.command_of(VERB), description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("first", metavar="A", help="verdicts of one judge")
    parser.add_argument("second", metavar="B", help="verdicts of another one, or of people")
    parser.add_argument("--format", choices=("text", "json"), default="text", help="of the output")
    return parser.read(words)


def _print(given: Namespace) -> None:
    result = _compare(given.first, given.second)
    as_json = given.format == "json"
    exit.say(dump_json(result, indent=1) if as_json else "\n".join(agreement.lines(result)))


def _compare(*paths: str) -> dict[str, Any]:
    are_labels = [people.is_labels(path) for path in paths]
    sides = [
        people.read(path) if labels else agreement.read(path)
        for path, labels in zip(paths, are_labels, strict=True)
    ]
    if sum(are_labels) != 1:
        return agreement.compare(*sides)
    turn = -1 if are_labels[0] else 1
    *pair, facts = people.pair(*sides[::turn])
    return agreement.compare(*pair[::turn]) | {"people": facts}
