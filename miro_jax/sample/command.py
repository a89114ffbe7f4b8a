"""The command line of sampling: `miro-jax sample [VERB] ...`.

Whatever can be wrong with the arguments is found before a device is touched or weights are read:
names of rewards and defaults come from the checkpoint's `config.json`. What imports jax is reached
through `sample`, which imports it when it is used: `--help` is quick.
"""

import dataclasses
import hashlib
import sys
import warnings
from argparse import Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tqdm import tqdm

from miro_jax import rewards, sample
from miro_jax.cli.exit import UsageError, always, command_of, run, say
from miro_jax.cli.flags import Parser, add_flags, make_settings
from miro_jax.data.near import near_name
from miro_jax.data.storage.files import to_json
from miro_jax.sample.request import Prompt, Request, given_prompts, slug
from miro_jax.sample.search_options import Search
from miro_jax.sample.settings import HOW, MODEL, WHAT, WHERE, Options, Settings
from miro_jax.sample.sheets import Sheet
from miro_jax.sample.verbs import VERBS, Best, Loop

VERB = "sample"
DEFAULT = "images"


@dataclasses.dataclass(frozen=True)
class Plan:
    """A checked command, with what it needs.

    Attributes:
      verb: options of the verb. request: what is requested. sheet: its images.
      out: the folder. facts: plain JSON of all that the files depend on.
      pipe: a `MiroPipeline`. reward: of best-of-N. objective: of a search.
    """

    verb: Any
    request: Request
    sheet: Sheet
    out: Path
    facts: dict[str, Any]
    pipe: Any = None
    reward: Any = None
    objective: Any = None

    @property
    def files(self) -> list[str]:
        """Names of the files that it writes."""
        return [*self.sheet.files, *self.verb.beside]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 done, 1 it failed, 2 a bad argument."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return run(VERB, lambda: _prepare(words), _fill, resumes=always)


def _prepare(words: list[str]) -> Plan:
    """Check the arguments, then load the network; the folder is compared before and after."""
    plan, options = _plan(*_parse(words))
    sample.folder.check_folder(plan.out, plan.facts, plan.files)
    reward, more = None, {}
    if isinstance(plan.verb, Best):
        weights = plan.verb.reward_weights
        given = {"weights": weights} if weights else {}
        reward = rewards.load_reward(plan.verb.reward, **given)
        more = {"reward": reward.identity}
    pipe = sample.pipeline.open_pipeline(options)
    sample.draw.check_images(pipe, plan.sheet.images)
    more |= sample.draw.describe_opened(pipe, options)
    objective = None
    if isinstance(plan.verb, Search):
        objective = sample.search.load_objective(pipe, plan.request, plan.verb)
        more["objective_identity"] = objective.identity
    plan = dataclasses.replace(
        plan, facts=plan.facts | more, pipe=pipe, reward=reward, objective=objective
    )
    sample.folder.check_folder(plan.out, plan.facts, plan.files)
    if not (plan.out / sample.folder.MANIFEST_NAME).exists():
        _ = pipe.trained.caption_encoder  # a missing one is reported before work begins
    return plan


def _fill(plan: Plan) -> None:
    """Fill the folder, and print its name."""
    verb, files = plan.verb, plan.sheet.files

    def animate(folder: Any) -> list[str]:
        images, name = folder.read(files), f"loop.{verb.format}"
        frames = sample.animation.draw_frames(plan.sheet, images, verb.varied(plan.request))
        folder.write(name, sample.animation.encode_animation(frames, name, verb.fps))
        return [name]

    with (
        warnings.catch_warnings(),
        sample.folder.open_folder(plan.out, plan.facts, files, verb.beside) as folder,
    ):
        warnings.showwarning = _show_warning
        if isinstance(verb, Best):
            keep = verb.keep_candidates
            sample.best.fill(folder, plan.pipe, plan.request, plan.reward, keep)
        elif isinstance(verb, Search):
            given = plan.pipe, plan.request, verb, plan.objective
            say("\n".join(sample.search.describe(sample.search.fill(folder, *given))))
        else:
            compose = animate if isinstance(verb, Loop) else None
            sample.draw.fill(folder, plan.pipe, plan.sheet, True, compose)
    say(plan.out)


def _parse(words: list[str]) -> tuple[str, Namespace]:
    """Split off the verb, and read the flags."""
    name = DEFAULT
    if words and not words[0].startswith("-"):
        name, *words = words
        if name not in VERBS:
            hint = near_name(name, VERBS)
            raise UsageError(f"the verb must be one of {', '.join(VERBS)}; got {name!r}{hint}")
    return name, _parser(name).read(words)


def _parser(name: str) -> Parser:
    verb = VERBS[name]
    listed = "".join(f"  {key:10}{one.summary}\n" for key, one in VERBS.items())
    parser = Parser(
        prog=f"{command_of(VERB)} {name}",
        description=f"{name}: {verb.summary}.\nThe folder gets {verb.makes}.\n\n"
        f"verbs, the first word of a command:\n{listed}",
        epilog=f"example:\n  miro-jax sample {name} {verb.example}",
    )
    add_flags(parser, verb)
    positional = [f.metadata for f in dataclasses.fields(verb)]
    operands = [rules["metavar"] for rules in positional if rules.get("positional")]
    parser.usage = " ".join([parser.prog, *operands, "--prompt=TEXT [--FLAG=VALUE ...]"])
    for title in (WHAT, HOW, MODEL, WHERE):
        parser.add_argument_group(title)
    add_flags(parser, Options)
    add_flags(parser, Request, skip=("num_images",) if verb is Best else ())
    own = {} if verb.negative_prompt is None else {"negative_prompt": verb.negative_prompt}
    add_flags(parser, Settings, own)
    return parser


def _plan(name: str, flags: Namespace) -> tuple[Plan, Options]:
    """Check the flags against the checkpoint's config."""
    options = make_settings(Options, flags)
    verb: Any = make_settings(VERBS[name], flags)
    prompts = given_prompts(options)
    if isinstance(verb, Search):
        prompts += map(Prompt, sample.objective.check_search(verb, prompts, flags.seed))
    if not prompts:
        raise UsageError("at least one prompt must be given: --prompt=TEXT or --prompts-file=FILE.")
    if isinstance(verb, Best):
        rewards.check_names([verb.reward])
        if verb.reward_weights is not None and not rewards.has_weights(verb.reward):
            raise UsageError(f"--reward-weights: the reward {verb.reward!r} has no weights.")
        flags.num_images = verb.candidates
    names, _, usual, _ = sample.preset.read_defaults(options)
    # The negative branch of verbs that define it themselves stays theirs.
    given = usual.put_before(flags, negative=verb.negative_prompt is None)
    settings = make_settings(Settings, flags, **given)
    request = make_settings(Request, flags, names=names, prompts=tuple(prompts), settings=settings)
    sheet = verb.sheet(request)
    facts = request.describe(name, sheet.images, **verb.facts(request))
    out = Path(options.out or _default_folder(name, options, facts)).expanduser()
    return Plan(verb, request, sheet, out, facts), options


def _default_folder(name: str, options: Options, facts: dict[str, Any]) -> Path:
    """Name a folder after the command: the same one resumes there, another one goes elsewhere."""
    o = options
    source = [o.checkpoint, o.variant, o.revision, o.dtype, o.batch_size]
    digest = hashlib.sha256(to_json({"request": facts, "source": source})).hexdigest()
    return Path("samples") / f"{slug(facts['prompts'][0])}-{name}-{digest[:8]}"


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    tqdm.write(f"note: {message}", file=sys.stderr)
