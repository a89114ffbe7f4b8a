"""Flags of the demo. Importing this module imports neither jax nor gradio."""

import dataclasses
from collections.abc import Sequence

from miro_jax.cli.flags import option
from miro_jax.rewards.names import HELP, parse_names
from miro_jax.sample.settings import MODEL, ModelOptions

PAGE = "the page"
AUTO, NONE = "auto", "none"


@dataclasses.dataclass(frozen=True)
class Options(ModelOptions):
    """What `miro-jax demo` takes."""

    rewards: Sequence[str] = option(
        (AUTO,),
        parse=parse_names,
        group=MODEL,
        metavar="NAMES",
        help="rewards that score the images: auto (those of the run that need no weights), none, "
        f"or {HELP}",
    )
    preset: tuple[str, ...] = option(
        (),
        repeat=True,
        parse=str,
        group=PAGE,
        metavar="FILE",
        help="a preset.json of `sample search`; repeat it for several",
    )
    most_images: int = option(
        8, at_least=1, at_most=64, group=PAGE, metavar="N", help="images that may be requested"
    )
    host: str = option(
        "127.0.0.1",
        group=PAGE,
        metavar="ADDRESS",
        help="where the page is served; 0.0.0.0 lets other machines in",
    )
    port: int = option(7860, at_least=1, at_most=65535, group=PAGE, metavar="N", help="of the page")
