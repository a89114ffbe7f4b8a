"""The options of annotate, and those of the engine that it shares with score; written once.

The fields are the flags of `miro-jax annotate --help`, the keys of `config.annotate` and the
keyword arguments of `annotate.annotate`. Importing this module imports no jax.
"""

import ast
import dataclasses
import functools
from collections.abc import Mapping, Sequence
from typing import Any

from miro_jax.cli.flags import MESH_HELP, Parser, option
from miro_jax.data.records.bins import STRATEGIES
from miro_jax.rewards.names import HELP as REWARDS_HELP
from miro_jax.rewards.names import parse_names

VERB = "annotate"
DTYPES = ("float32", "bfloat16")
ALL, SHARED = "all", "shared"  # of pieces: every one; those that a scheduler gives this process
_IMAGES, _ENGINE, _SHARE, _BEFORE = "records", "engine", "which pieces", "before the start"


def parse_named(text: str) -> dict[str, Any]:
    """Read `NAME:KEY=VALUE,KEY=VALUE` into {"name": NAME, KEY: VALUE}.

    Raises:
      ValueError: the text has another form.
    """
    name, _, rest = text.partition(":")
    arguments: dict[str, Any] = {"name": name}
    for item in filter(None, rest.split(",")):
        key, value = _split_pair(item, "An encoder must be NAME:KEY=VALUE,KEY=VALUE", text)
        if key in arguments:
            raise ValueError(f"An encoder must be given each value once; got {text!r}.")
        try:
            arguments[key] = ast.literal_eval(value)
        except (ValueError, SyntaxError):
            arguments[key] = value  # a plain word
    return arguments


def _split_pair(item: str, rule: str, text: str) -> tuple[str, str]:
    key, equals, value = item.partition("=")
    if not equals or not key or not value:
        raise ValueError(f"{rule}; got {text!r}.")
    return key, value


def parse_weights(text: str) -> tuple[str, str]:
    """Read `NAME=FOLDER_OR_HUB_ID`; ValueError where it is none."""
    return _split_pair(text, "--weights must be NAME=FOLDER_OR_HUB_ID", text)


# The option of both commands that load rewards by name.
weights_option = functools.partial(
    option,
    (),
    repeat=True,
    parse=parse_weights,
    metavar="NAME=FOLDER_OR_HUB_ID",
    help="weights of a reward, in place of its authors' repository; may be repeated",
)


def pieces_of_call(pieces: Any, options: Mapping[str, Any]) -> Any:
    """Return the pieces of a call from Python: where none are given a worker's share, else all."""
    if pieces is not None:
        return pieces
    return SHARED if options.keys() & {"worker_index", "num_workers", "distributed"} else ALL


def _parse_group(text: str) -> tuple[str, tuple[str, ...]]:
    name, members = _split_pair(text, "--group must be NAME=MEMBER,MEMBER", text)
    return name, tuple(members.split(","))


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """Options of what puts images through models; see `annotate.work`."""

    weights: Mapping[str, str] | tuple = weights_option(group=_ENGINE)
    dtype: str | None = option(
        None, choices=DTYPES, help="of the rewards' networks (default: each its own)", group=_ENGINE
    )
    max_failure_rate: float = option(
        0.01, share=True, help="share of images in [0, 1] that may fail", group=_ENGINE
    )
    batch_size: int = option(
        64, at_least=1, help="images that the models take at a time, over all devices",
        group=_ENGINE,
    )  # fmt: skip
    num_threads: int | None = option(
        None,
        at_least=1,
        help="threads that decode (default: one for each processor, 32 at most)",
        group=_ENGINE,
    )
    mesh: str = option("all", help=MESH_HELP, group=_ENGINE)
    groups: Sequence[tuple[str, Sequence[str]]] = option(
        (),
        flag="group",
        repeat=True,
        parse=_parse_group,
        metavar="NAME=MEMBER,MEMBER",
        help="models that are in memory together: rewards, image, captions; may be repeated "
        "(default: rewards, vqa, encode)",
        group=_ENGINE,
    )
    stages: str = option(ALL, help="groups to run now, with commas between", group=_ENGINE)
    one_by_one: bool = option(False, help="load one group at a time", group=_ENGINE)
    allow_urls: bool = option(
        False,
        help="read also what rows and links of the source name outside of its folder: other files, "
        "http:// and other addresses",
        group=_ENGINE,
    )
    piece: int | None = option(None, metavar="I", help="one piece, from 0", group=_SHARE)
    pieces: Any = option(
        SHARED,
        metavar="A-B",
        help="pieces as 0-9,17; all; or shared: those that a scheduler gives this process",
        group=_SHARE,
    )
    worker_index: int | None = option(
        None, metavar="I", help="from 0; worker I of N takes the pieces I, I + N, ...", group=_SHARE
    )
    num_workers: int | None = option(
        None, metavar="N", help="number of workers, see --worker-index", group=_SHARE
    )
    distributed: bool = option(
        False, help="take index and number of workers from jax.distributed", group=_SHARE
    )
    merge: bool = option(False, help="only finish what all workers have done", group=_SHARE)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings(EngineSettings):
    """Options of annotate."""

    source: Any = option(
        help="tar:PATTERN, folder:DIR, table:FILE or tfds:NAME@DIR, with options as in "
        "'folder:DIR?captions=FILE&synthetic=FILE'",
        group=_IMAGES,
    )
    out: Any = option(
        help="folder for the records, or URL of one as gs://bucket/name", group=_IMAGES
    )
    rewards: tuple = option(parse=parse_names, help=REWARDS_HELP, group=_IMAGES)
    image_encoder: Any = option(
        "pixels:size=32",
        metavar="NAME:KEY=VALUE,...",
        help="pixels:size=N, or sdxl_vae:size=256, perhaps with weights=FOLDER, dtype=bfloat16",
        group=_IMAGES,
    )
    caption_encoder: Any = option(
        "words:width=64,max_tokens=32",
        metavar="NAME:KEY=VALUE,...",
        help="words:width=N,max_tokens=N, or flan_t5:width=2048,max_tokens=256, likewise",
        group=_IMAGES,
    )
    encode_512: bool = option(
        False, help="store image latents of 512 pixels as well", group=_IMAGES
    )
    num_bins: int = option(64, at_least=2, help="levels of each reward", group=_IMAGES)
    bins_strategy: str = option(
        "quantile", choices=STRATEGIES, help="how the edges of the levels are fitted", group=_IMAGES
    )
    plan: bool = option(False, help="print what the run will take, and do nothing", group=_BEFORE)
    probe: bool = option(
        False, help="--plan with the rate measured on the devices here", group=_BEFORE
    )
    devices: int = option(1, at_least=1, metavar="N", help="of a worker, for --plan", group=_BEFORE)
    device_memory: float | None = option(
        None, metavar="GIB", help="memory of a device in GiB, for --plan", group=_BEFORE
    )


EPILOG = """
examples
  miro-jax annotate --source='tar:/data/cc12m/*.tar' --out=/data/records \\
      --rewards=sharpness,beauty --image-encoder=pixels:size=32
  miro-jax annotate --source=folder:photos --out=out/photos --rewards=aesthetic \\
      --image-encoder=sdxl_vae:size=256 --caption-encoder=flan_t5:width=2048 --plan
  miro-jax annotate ... --pieces=0-99        some pieces; then, when all are done:
  miro-jax annotate ... --merge

A worker of a Kubernetes Indexed Job (JOB_COMPLETION_INDEX and NUM_WORKERS), of a Slurm array or of
a TPU slice takes its own pieces by itself; --pieces=all takes all. See docs/annotate.md.

A signal keeps finished batches, and the same command resumes; a second one ends at once.
"""


def make_parser() -> Parser:
    """Make the parser of the command line."""
    return Parser(
        VERB,
        Settings,
        description="Turn images with captions into records: encoded, scored, ready to train on.",
        epilog=EPILOG,
        done="all that was requested is done",
        failed="it failed and the same command may resume",
    )
