"""The command line of sampling: `python -m miro_jax.sample [VERB] ...`.

Whatever can be wrong with the arguments is found before a device is touched or weights are read:
names of rewards and defaults come from the checkpoint's `config.json`.
"""

import hashlib
import sys
import warnings
from argparse import Namespace
from collections.abc import Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import jax
from tqdm import tqdm

from miro_jax.cli.exit import (
    DONE,
    FAILED,
    INTERRUPTED,
    MISTAKEN,
    MISTAKES,
    STOPPED,
    UsageError,
    fail,
    is_out_of_memory,
    say,
)
from miro_jax.cli.flags import Parser
from miro_jax.data.storage.files import to_json
from miro_jax.models import sharding
from miro_jax.sample.flags import add_shared
from miro_jax.sample.folder import MANIFEST, check_folder, open_folder
from miro_jax.sample.make import describe_pipeline
from miro_jax.sample.pipeline import MiroPipeline
from miro_jax.sample.prompts import read_prompts
from miro_jax.sample.request import Asked, Prompt, Settings, slug
from miro_jax.sample.trained import peek
from miro_jax.sample.verbs import VERBS, Verb

NAME = "miro_jax.sample"
PROGRAM = f"python -m {NAME}"
DEFAULT = "images"
# Of a release; a run of this package says in its config.json what it is sampled with.
RELEASE = {"guidance_scale": 7.0, "num_steps": 50, "solver": "euler", "negative": "empty"}
EXPECTED = (ValueError, TypeError, OSError, FloatingPointError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status: 0 done, 1 it failed, 2 a bad argument."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        verb, flags = _parse(arguments)
        asked, job = _plan(VERBS[verb], flags)
        out = Path(flags.out) if flags.out else _default_folder(verb, flags, job)
        check_folder(out, job.request, job.files)
        more = job.load()
        pipe = _load(flags)
        request = job.request | more | describe_pipeline(pipe) | {"dtype": _dtype(flags)}
        check_folder(out, request, job.files)
        if not (out / MANIFEST).exists():
            _ = pipe.trained.caption_encoder  # a missing one should be told now
    except SystemExit as done:  # --help
        return int(done.code or 0)
    except MISTAKES as error:
        return fail(NAME, error, MISTAKEN)
    except EXPECTED as error:
        return fail(NAME, error, FAILED)
    try:
        with warnings.catch_warnings(), open_folder(out, request, job.files) as folder:
            warnings.showwarning = _show_warning
            job.fill(folder, pipe)
    except EXPECTED as error:
        return fail(NAME, error, FAILED)
    except jax.errors.JaxRuntimeError as error:
        if not is_out_of_memory(error):
            raise
        return fail(NAME, "out of memory on the device; give a smaller --batch-size.", FAILED)
    except KeyboardInterrupt:
        return fail(NAME, STOPPED, INTERRUPTED)
    say(out)
    return DONE


def _parse(arguments: list[str]) -> tuple[str, Namespace]:
    """Split off the verb, and read the flags."""
    verb = DEFAULT
    if arguments and not arguments[0].startswith("-"):
        verb, *arguments = arguments
        if verb not in VERBS:
            near = get_close_matches(verb, VERBS, 1)
            hint = f"; did you mean {near[0]}?" if near else ""
            raise UsageError(f"the verb must be one of {', '.join(VERBS)}; got {verb!r}{hint}")
    return verb, _parser(verb).read(arguments)


def _parser(name: str) -> Parser:
    verb = VERBS[name]
    listed = "".join(f"  {key:10}{one.summary}\n" for key, one in VERBS.items())
    parser = Parser(
        prog=f"{PROGRAM} {name}",
        description=f"{name}: {verb.summary}.\nThe folder gets {verb.makes}.\n\n"
        f"verbs, the first word of a command:\n{listed}",
        epilog=f"example:\n  {PROGRAM} {name} {verb.example}\n\n"
        "Exit status: 0 all is done, 1 it failed, 2 a bad argument.",
    )
    verb.add(parser)
    words = [action.metavar for action in parser._actions if not action.option_strings]
    parser.usage = " ".join([PROGRAM, name, *words, "--prompt=TEXT [--FLAG=VALUE ...]"])
    add_shared(parser, verb.negative_prompt, verb.count == "images")
    return parser


def _plan(verb: Verb, flags: Namespace) -> tuple[Asked, Any]:
    """Check the flags against the checkpoint's config, and plan the work."""
    prompts = [Prompt(text) for text in flags.prompt]
    if flags.prompts_file is not None:
        prompts += read_prompts(flags.prompts_file)
    if not prompts:
        raise UsageError("at least one prompt must be given: --prompt=TEXT or --prompts-file=FILE.")
    names, sample = peek(flags.checkpoint, flags.variant, flags.revision)
    usual = RELEASE if sample is None else sample

    def chosen(value, key):
        return usual[key] if value is None else value

    settings = Settings(
        chosen(flags.guidance_scale, "guidance_scale"),
        flags.guidance_interval,
        chosen(flags.steps, "num_steps"),
        chosen(flags.solver, "solver"),
        chosen(flags.negative_prompt, "negative"),
    )
    targets, negative = map(_merged, (flags.target, flags.negative_target))
    count = getattr(flags, verb.count)
    asked = Asked(names, tuple(prompts), count, flags.seed, targets, negative, settings)
    return asked, verb.plan(asked, flags)


def _merged(parts: Sequence[dict[str, float | None]]) -> dict[str, float | None]:
    return {name: level for part in parts for name, level in part.items()}


def _default_folder(verb: str, flags: Namespace, job: Any) -> Path:
    """Name a folder after the command: the same one goes on there, another one goes elsewhere."""
    source = [str(flags.checkpoint), flags.variant, flags.revision, flags.dtype, flags.batch_size]
    digest = hashlib.sha256(to_json({"request": job.request, "source": source})).hexdigest()
    return Path("samples") / f"{slug(job.asked.prompts[0].text)}-{verb}-{digest[:8]}"


def _dtype(flags: Namespace) -> str:
    on_cpu = jax.default_backend() == "cpu"
    return flags.dtype or ("float32" if on_cpu else "bfloat16")


def _load(flags: Namespace) -> MiroPipeline:
    """Load the pipeline onto all devices of this machine."""
    devices = jax.device_count()
    if flags.batch_size is not None and flags.batch_size % devices:
        raise UsageError(
            f"argument --batch-size: must be a multiple of the {devices} devices; "
            f"got {flags.batch_size}"
        )
    return MiroPipeline.from_pretrained(
        flags.checkpoint,
        flags.variant,
        dtype=_dtype(flags),
        mesh=sharding.make_mesh(-1, 1),
        batch_size=flags.batch_size,
        text_encoder=flags.text_encoder,
        vae=flags.vae,
        revision=flags.revision,
    )


def _show_warning(message, *_, **__) -> None:
    tqdm.write(f"note: {message}", file=sys.stderr)
