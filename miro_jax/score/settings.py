"""The options of score, written once; those of the engine stand in `annotate.settings`."""

import dataclasses
from typing import Any

from miro_jax.annotate.settings import EngineSettings
from miro_jax.cli.flags import Parser, option
from miro_jax.rewards.names import HELP as REWARDS_HELP
from miro_jax.rewards.names import parse_names

VERB = "score"
ENDINGS = (".parquet", ".csv", ".jsonl")  # of the output
TABLES = (".csv", ".tsv", ".jsonl", ".parquet", ".json")  # of the input, see `sources.tables`
_TABLE = "table"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(EngineSettings):
    """Options of score."""

    path: Any = option(
        positional=True,
        metavar="PATH",
        parse=str,
        help=f"folder of images, also one that sample wrote; table of paths ({', '.join(TABLES)}); "
        "tar files with KEY.jpg, KEY.txt; or a source such as tar:PATTERN or tfds:NAME, as for "
        "annotate",
        group=_TABLE,
    )
    rewards: tuple = option(parse=parse_names, help=REWARDS_HELP, group=_TABLE)
    out: Any = option(
        help=f"file to write, or its URL, ending in {', '.join(ENDINGS)}", group=_TABLE
    )
    captions: Any = option(
        None,
        metavar="FILE",
        help="table of paths and captions, or the manifest.json of sample; without it captions are "
        "those of the table or tar, or stand in KEY.txt or KEY.json beside KEY.jpg",
        group=_TABLE,
    )
    path_column: str | None = option(
        None, metavar="NAME", help="column of paths (default: path, file, file_name, ...)",
        group=_TABLE,
    )  # fmt: skip
    caption_column: str | None = option(
        None, metavar="NAME", help="column of captions (default: caption, text, txt, prompt, ...)",
        group=_TABLE,
    )  # fmt: skip
    commercial_only: bool = option(
        False,
        help="drop rewards whose weights are not known to allow commercial use",
        group=_TABLE,
    )
    limit: int | None = option(
        None, at_least=1, help="score the first so many images alone (default: all)", group=_TABLE
    )
    stored: bool = option(
        False,
        help="write scores on the scale that records store, not on the models' own",
        group=_TABLE,
    )
    raw_csv: bool = option(
        False,
        help="in .csv, write keys and captions as they are; without it, one that a spreadsheet "
        "would run as a formula, as it begins with = + - @, a tab or a return, gets a ' before it",
        group=_TABLE,
    )
    max_failure_rate: float = option(
        1.0, share=True, help="share of images in [0, 1] that may fail", group=_TABLE
    )


def make_parser() -> Parser:
    """Make the parser of the command line."""
    return Parser(
        VERB,
        Settings,
        description="Score images with reward models: a table with a row for each image and a "
        "column for each reward, with a summary, histograms and the list of failures beside it.",
        epilog="example: miro-jax score photos --captions=captions.csv "
        "--rewards=pick_score,image_reward --out=scores.parquet\n\n"
        "Several processes share the pieces of the input, as those of annotate do: see "
        "docs/annotate.md.",
        failed="it failed and the same command may resume",
    )
