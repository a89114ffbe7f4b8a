"""`miro-jax plan`: what a run will take, before anything is paid: memory, hours, disk, money."""

import dataclasses
import sys
from collections.abc import Sequence

from miro_jax import evaluate
from miro_jax.cli import exit as exits
from miro_jax.cli import flags
from miro_jax.cli.chips import CHIPS, parse_chips, read_prices
from miro_jax.cli.flags import check, option
from miro_jax.evaluate.doctor import read_config

VERB = "plan"
_DESCRIPTION = """Estimate what annotation, training and evaluation of a run will take on machines
that need not be there: parameters, memory of a chip and the smallest change by which a step fits,
steps a second, hours, records, disk and money. Nothing is fetched, and no accelerator is used; it
takes half a minute for the paper's network."""
_EPILOG = """Keys of the config are changed as for `miro-jax train`: --config.train.batch_size=512.

example:
  miro-jax plan --config=miro --chips=v5e-16 --records=10000000
"""
_STATUSES = {
    "done": "a training step fits",
    "failed": "it does not (the text says what would)",
}


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is estimated. Fields are documented by their help."""

    config: str = option(help="base, miro, or a file as of `miro-jax train`, each with :VARIANT")
    chips: tuple[str, int] = option(
        parse=parse_chips,
        metavar="NAME-NUMBER",
        help=f"machines: {', '.join(CHIPS)} and a number, as v5e-16; of v4, v5p and tpu7x it "
        "counts cores, two a chip, as their names do",
    )
    records: int = option(0, at_least=0, help="images of the data set; 0 is not known")
    words: float = option(17.0, at_least=0, help="of a caption, on average; 17 is CC12M's")
    mfu: float = option(
        0.0, at_least=0, at_most=1, help="share of the chips' peak in [0, 1]; 0 is what is known"
    )
    price: float | None = option(None, at_least=0, help="USD an hour of one chip, as of spot ones")
    prices: str = option("", metavar="FILE", help='the same of several chips: {"v5e": 0.6, ...}')
    json: bool = option(False, help="print one line of JSON instead of text")
    overrides: tuple[str, ...] = ()  # words such as --config.train.batch_size=512


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status."""
    return exits.run(
        VERB, lambda: _plan(arguments), lambda s: evaluate.budget.show(s), (ValueError,)
    )


def _plan(arguments: Sequence[str] | None) -> Settings:
    parser = flags.Parser(VERB, Settings, description=_DESCRIPTION, epilog=_EPILOG, **_STATUSES)
    words = list(sys.argv[1:] if arguments is None else arguments)
    keys = tuple(word for word in words if word.startswith("--config."))
    read = parser.read([word for word in words if word not in keys])
    settings = flags.make_settings(Settings, read, overrides=keys)
    check(settings)
    if settings.prices:
        read_prices(settings.prices)
    read_config(settings.config, settings.overrides)
    return settings
