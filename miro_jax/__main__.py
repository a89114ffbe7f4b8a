"""The console script: `miro-jax VERB ...` is `python -m miro_jax.VERB ...`, and train is main."""

import dataclasses
import importlib
import sys
from collections.abc import Sequence
from difflib import get_close_matches

from miro_jax import __version__
from miro_jax.cli.exit import leave


@dataclasses.dataclass(frozen=True)
class Verb:
    """One verb.

    Attributes:
      module: has `main(arguments) -> exit status`; imported when the verb is called.
      summary: a line for `--help`.
      help: a module with `print_help()` that imports no jax; "" where `main` prints it.
      verb: the first word of the arguments of a module that has several verbs; "" for one.
    """

    module: str
    summary: str
    help: str = ""
    verb: str = ""

    def main(self, arguments: Sequence[str]) -> int:
        """Run the verb; returns its exit status."""
        if self.help and any(word in ("-h", "--help") for word in arguments):
            importlib.import_module(f"miro_jax.{self.help}").print_help()
            return 0
        words = [self.verb, *arguments] if self.verb else arguments
        return importlib.import_module(f"miro_jax.{self.module}").main(words)


_SUITES = "evaluate.suites.verbs"
VERBS = {
    "annotate": Verb("annotate.__main__", "score and encode images with captions into records"),
    "train": Verb("main", "one stage of a configured run, training by default", "cli.config"),
    "sample": Verb("sample.command", "images, grids, strips, best-of-N, loops from a checkpoint"),
    "evaluate": Verb("evaluate.command", "numbers, images and the report of a run's checkpoint"),
    "compare": Verb("evaluate.compare_command", "networks or evaluations side by side"),
    "diff": Verb(_SUITES, "why two evaluations differ", verb="diff"),
    "check": Verb(_SUITES, "hold an evaluation against published values", verb="check"),
    "import": Verb(_SUITES, "results of the original tools as an evaluation", verb="import"),
    "agreement": Verb(_SUITES, "how far two judges of GenEval agree", verb="agreement"),
    "plot": Verb(
        "evaluate.plots.command", "the plots of the paper from evaluations or its numbers"
    ),
    "demo": Verb("demo.command", "sliders in a browser: requested levels beside the measured ones"),
    "score": Verb("score.__main__", "score images of any origin with reward models into a table"),
    "explore": Verb("demo.explore", "a static page of images at many levels, with sliders"),
    "weights": Verb("cli.weights", "fetch weights; list what files hold; pickles to safetensors"),
    "plan": Verb("evaluate.plan", "memory, hours, disk and money of a run, before it is paid"),
    "doctor": Verb("evaluate.doctor", "what this machine is, what is in the way, how fast it is"),
    "export": Verb("sample.export", "a run's weights in the released layout, also to the hub"),
}

STAGES = ("distil", "extend", "study")  # of `train`, which are no verbs


def main(arguments: Sequence[str] | None = None) -> int:
    """Hand over to a verb; returns its exit status, 2 for an unknown one."""
    if arguments is None:
        return leave(lambda: main(sys.argv[1:]))
    if arguments and arguments[0] in VERBS:
        verb, *rest = arguments
        return VERBS[verb].main(rest)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help(), end="", file=sys.stdout if arguments else sys.stderr)
        return 0 if arguments else 2
    if arguments[0] in ("-V", "--version"):
        print(f"miro-jax {__version__}")
        return 0
    names = get_close_matches(arguments[0], (*VERBS, *STAGES), 2, 0.6)
    near = [f"miro-jax train --stage={name}" if name in STAGES else name for name in names]
    hint = f"; did you mean {' or '.join(near)}?" if near else ""
    print(
        f"miro-jax: error: the verb must be one of {', '.join(VERBS)}; got {arguments[0]!r}{hint}",
        file=sys.stderr,
    )
    return 2


def _help() -> str:
    listed = "".join(f"  {name:10}{verb.summary}\n" for name, verb in VERBS.items())
    return (
        "MIRO in JAX: text-to-image flow models trained on captions and reward levels together.\n\n"
        f"usage: miro-jax VERB ...        the same as python -m miro_jax.VERB ..., but for train:\n"
        f"                                python -m miro_jax.main\n\n{listed}\n"
        "miro-jax VERB --help explains one verb; miro-jax --version prints the version.\n\n"
        "example:\n  miro-jax sample --checkpoint=runs/base --prompt='a red circle' --images=4\n"
    )


if __name__ == "__main__":
    sys.exit(main())
