"""`miro-jax evaluate prompts --suite=NAME`: the prompts of a suite, for a sampler of any origin."""

import os
from collections.abc import Sequence
from pathlib import Path

from miro_jax import evaluate
from miro_jax.cli import exit as exits
from miro_jax.cli.flags import Parser
from miro_jax.data.json_file import dump_json
from miro_jax.data.printable import counted
from miro_jax.data.storage.files import write_atomic
from miro_jax.evaluate.suites.base import Suite
from miro_jax.sample.request import JSON_LINES, OTHERS

WORD = "prompts"
_DESCRIPTION = """Write the prompts of a suite: one a line, or into a file that ends in .jsonl with
key, tag and metadata of each. `miro-jax sample --prompts-file` reads either. Draw as many images of
each prompt as the suite needs, with any program, and evaluate their folder with --suite."""
_EPILOG = """examples:
  miro-jax evaluate prompts --suite=parti --out=parti.txt
  miro-jax evaluate prompts --suite=geneval --out=geneval.jsonl
  miro-jax evaluate prompts --suite=shapes --run=runs/base
"""


def main(words: Sequence[str]) -> int:
    """Run the command line without its first word; returns the exit status, see `cli.exit`."""
    return exits.run("evaluate", lambda: _plan(words), _write)


def _plan(words: Sequence[str]) -> tuple[Suite, Path | None]:
    prog = f"{exits.command_of('evaluate')} {WORD}"
    parser = Parser(prog=prog, description=_DESCRIPTION, epilog=_EPILOG)
    parser.add_argument("--suite", required=True, help="geneval, parti, shapes or a file")
    parser.add_argument(
        "--out", metavar="FILE", help="file to write (default: printed, one a line)"
    )
    parser.add_argument(
        "--run", metavar="DIR", help="whose own prompts --suite=shapes has; for no other suite"
    )
    given = parser.read(words)
    run = None if given.run is None else Path(given.run).expanduser()
    suite = evaluate.suites.table.make_suite(given.suite, run)
    if given.run is not None and given.suite != "shapes":
        raise exits.UsageError(
            f"--run: only --suite=shapes has a run's prompts; got --suite={given.suite}."
        )
    if given.out is None:
        return suite, None
    out = Path(given.out).expanduser()
    if out.suffix.lower() in (".json", *OTHERS):  # plain lines would be none of these
        raise exits.UsageError(
            f"--out must end in .jsonl, for key, tag and metadata too, or in .txt; got {given.out}."
        )
    return suite, out


def _write(planned: tuple[Suite, Path | None]) -> None:
    suite, out = planned
    as_json = out is not None and out.suffix.lower() in JSON_LINES
    if as_json:
        entries = [
            {**p.metadata, "key": p.key, "prompt": p.text, "tag": p.tag} for p in suite.prompts
        ]
        lines = [dump_json(entry) for entry in entries]
    else:
        lines = [" ".join(prompt.text.split()) for prompt in suite.prompts]
    if out is None:
        exits.say("\n".join(lines))
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(out, "".join(f"{line}\n" for line in lines).encode("utf-8"))
    count = f"{counted(len(lines), 'prompt')} of {suite.name}"
    each = counted(suite.samples_per_prompt, "image")
    exits.say(f"{os.fspath(out)}: {count}, {each} of each")
