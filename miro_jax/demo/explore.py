"""The command line of the explorer: `miro-jax explore --checkpoint=runs/base --out=explorer`.

It makes a folder that is a site: images of all prompts at many levels, scored, and a page with
sliders that runs from a file or from any static host. It is filled as `miro-jax sample` fills its
folders: stop it whenever you like, the same command resumes to the same bytes. What imports jax is
reached through packages that import it when it is used: `--help` is quick.
"""

import dataclasses
import sys
import warnings
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from miro_jax import demo, rewards, sample
from miro_jax.cli.exit import UsageError, always, note, run, say
from miro_jax.cli.flags import Parser, add_flags, make_settings
from miro_jax.demo.explore_sheet import Explore
from miro_jax.rewards.names import parse_names
from miro_jax.sample.request import Prompt, Request, given_prompts
from miro_jax.sample.settings import HOW, MODEL, PRESET, WHAT, WHERE, Options, Settings

VERB = "explore"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A checked command.

    Attributes:
      explorer: an `explore_page.Explorer`.
      out: the folder. facts: plain JSON of all that the files depend on. pipe: a `MiroPipeline`.
    """

    explorer: Any
    out: Path
    facts: dict[str, Any]
    pipe: Any


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 done, 1 it failed, 2 a bad argument."""
    return run(VERB, lambda: _prepare(arguments), _fill, resumes=always)


def _parser() -> Parser:
    parser = Parser(
        VERB,
        description="Make a static page of images at many levels of all rewards, driven by "
        f"sliders, with scores under each image.\nThe folder gets {Explore.makes}.",
        epilog=f"example:\n  miro-jax explore {Explore.example}",
    )
    for title in (WHAT, HOW, MODEL, WHERE):
        parser.add_argument_group(title)
    add_flags(parser, Explore)
    parser.add_argument(
        "--rewards",
        metavar="A,B",
        help="judges whose scores stand under each image (default: the model's own rewards that "
        "need no weights; none: no scores)",
    )
    add_flags(parser, Options, {"out": "explorer"}, skip=("preset",))
    add_flags(parser, Request)
    of_presets = [f for f in dataclasses.fields(Settings) if f.metadata["unset"] == PRESET]
    add_flags(parser, Settings, {field.name: field.default for field in of_presets})
    return parser


def _prepare(arguments: Sequence[str] | None) -> Plan:
    """Check the arguments, then load the network; the folder is compared before and after."""
    flags = _parser().read(arguments)
    flags.preset = None
    options = make_settings(Options, flags)
    names, run_config, usual, _ = sample.preset.read_defaults(options)
    settings = make_settings(Settings, flags, **usual.put_before(flags))
    prompts = _prompts(options, run_config)
    request = make_settings(Request, flags, names=names, prompts=prompts, settings=settings)
    verb = make_settings(Explore, flags)
    sheet, views = verb.sheet(request), verb.views(request)
    judges = _judges(flags, names)
    facts = request.describe("explore", sheet.images, **verb.facts(request))
    out = Path(flags.out).expanduser()
    every = [*sheet.files, *demo.explore_page.page_files(request)]
    sample.folder.check_folder(out, facts, every)
    loaded = rewards.load_rewards(judges)
    pipe = sample.pipeline.open_pipeline(options)
    sample.draw.check_images(pipe, sheet.images)
    facts |= sample.draw.describe_opened(pipe, options)
    facts["judges"] = [judge.identity for judge in loaded]
    sample.folder.check_folder(out, facts, every)
    name, bins = pipe.trained.name.split(" sha256")[0], pipe.trained.bins
    explorer = demo.explore_page.Explorer(sheet, views, request, loaded, bins, name)
    return Plan(explorer, out, facts, pipe)


def _prompts(options: Options, run_config: dict[str, Any] | None) -> tuple[Prompt, ...]:
    """Return the prompts of the flags, or those of the run's own grids."""
    prompts = given_prompts(options)
    if not prompts and run_config is not None:
        prompts = [Prompt(text) for text in run_config.get("prompts", ())]
    if not prompts:
        raise UsageError("at least one prompt must be given: --prompt=TEXT or --prompts-file=FILE.")
    return tuple(prompts)


def _judges(flags: Namespace, names: Sequence[str]) -> list[str]:
    if flags.rewards is None:
        return [n for n in names if n in rewards.REWARDS and not rewards.has_weights(n)]
    judges = [] if flags.rewards == "none" else list(parse_names(flags.rewards))
    rewards.check_names(judges)
    return judges


def _fill(plan: Plan) -> None:
    """Fill the folder, and print the page to open."""
    explorer = plan.explorer
    names = [*explorer.sheet.files, *demo.explore_page.page_files(explorer.request)]
    with (
        warnings.catch_warnings(),
        sample.folder.open_folder(plan.out, plan.facts, names, ()) as folder,
    ):
        warnings.showwarning = lambda message, *_, **__: note(f"note: {message}")
        sample.draw.fill(folder, plan.pipe, explorer.sheet, True, explorer.write)
    say(plan.out / demo.explore_page.PAGE)


if __name__ == "__main__":
    sys.exit(main())
