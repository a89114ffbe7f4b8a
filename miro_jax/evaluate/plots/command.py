"""`miro-jax plot KIND SOURCES --out=F.svg`: a plot of the paper, and its numbers beside it."""

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from markupsafe import Markup

from miro_jax.cli import exit, flags
from miro_jax.cli.exit import note, say
from miro_jax.data.json_file import holds
from miro_jax.data.near import near_name
from miro_jax.data.printable import counted
from miro_jax.data.storage import open_folder
from miro_jax.data.storage.files import check_own, to_json, write_atomic
from miro_jax.evaluate.plots import bars, curves, doubts, facts, images, radars
from miro_jax.evaluate.plots.facts import Source
from miro_jax.evaluate.plots.figure import Figure
from miro_jax.report import page

VERB = "plot"
ALL = "paper"
PAGE = "index.html"  # of it
_ENDS = (".svg", ".json", ".csv")  # of the files of a figure
_FACTS = {"figure": str, "title": str, "numbers": dict, "points": list}  # see `Figure.facts`
_LAST = ("radar", "geneval", "synthetic", "bars", "test-time")  # draw last evaluations alone
_DESCRIPTION = """Draw a plot of the paper: F.svg, the same numbers as F.json and F.csv.

A source is the folder of an evaluation (`miro-jax evaluate WHAT --suite=NAME`), a folder of such
folders, one for each checkpoint or target, a run whose checkpoints were evaluated, a JSON file of
numbers, or published, the paper's own.
LABEL=SOURCE names its model; the baseline comes first.

  convergence  scores over steps, with both readings of the speed-up    folders of checkpoints
  test-time    the best of n samples                                    several samples a prompt
  radar        rewards                     --models, --ends=data        evaluations with rewards
  geneval      GenEval by category         --models, --ends=data        evaluations of GenEval
  synthetic    both, with synthetic captions
  sweep        score and reward by the reward's target   --reward       an evaluation a target
  sweep-grid   every measure by the target               --reward       an evaluation a target
  bars         beside other models
  isolation    what guidance by each reward alone does   --scores     folder of `sample isolate`
  tradeoff     scores from one reward to another         --scores     folder of `sample tradeoff`
  progression  the same prompts over checkpoints         25000=FOLDER 50000=FOLDER, of `sample`
  paper        all that the sources have, as one page: --out is a folder"""
_EPILOG = """example: miro-jax plot convergence published --out=convergence.svg
         miro-jax plot radar baseline=evals/baseline MIRO=evals/miro --out=radar.svg"""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is to be drawn."""

    kind: str = flags.option(positional=True, metavar="KIND", help="one of the list above")
    sources: tuple = flags.option(
        positional=True, metavar="SOURCE", help="where numbers or images are, see above"
    )
    out: str = flags.option(help="file to write, ending in .svg; for paper a folder")
    models: tuple = flags.option(
        (), help="models of a radar, with commas between, the first hollow"
    )
    ends: str = flags.option(
        radars.PUBLISHED, choices=radars.ENDS, help="of a radar's axes: the paper's, or the models'"
    )
    reward: str | None = flags.option(
        None, help="whose target a sweep varies (default: aesthetic; of a file of numbers its own)"
    )
    scores: str | None = flags.option(
        None, metavar="TABLE", help="table of `miro-jax score` of the folder of images"
    )


def draw(settings: Settings, sources: Sequence[Source]) -> Figure:
    """Draw one kind of figure; ValueError where the sources lack what it shows."""
    texts = []
    if settings.kind == "convergence":
        sources, texts = facts.without_single(sources)
    figure = _kinds(settings, sources)[settings.kind]()
    drawn = {s.label: s.latest if settings.kind in _LAST else s.evaluations for s in sources}
    origins = {source.label: _origin(source, drawn[source.label]) for source in sources}
    texts += doubts.of_evaluations([one for own in drawn.values() for one in own])
    texts += doubts.of_prompts(sources, settings.kind.replace("-", "_"))
    return dataclasses.replace(figure, sources=origins, warnings=(*figure.warnings, *texts))


def _kinds(settings: Settings, sources: Sequence[Source]) -> dict[str, Callable[[], Figure]]:
    s = settings
    return {
        "convergence": lambda: curves.convergence(sources),
        "test-time": lambda: curves.test_time(sources),
        "radar": lambda: radars.rewards(sources, s.models, s.ends),
        "geneval": lambda: radars.geneval(sources, s.models, s.ends),
        "synthetic": lambda: radars.synthetic(sources, s.models, s.ends),
        "sweep": lambda: curves.sweep(sources, s.reward),
        "sweep-grid": lambda: curves.sweep_grid(sources, s.reward),
        "bars": lambda: bars.bars(sources),
        "isolation": lambda: images.isolation(sources, s.scores),
        "tradeoff": lambda: images.tradeoff(sources, s.scores),
        "progression": lambda: images.progression(sources),
    }


def _origin(source: Source, drawn: Sequence[facts.Evaluation]) -> str:
    if source.facts is not None:
        return source.facts["source"]
    if source.folder is not None:
        return f"{counted(len(source.images), 'image')} of `miro-jax sample`"
    names = dict.fromkeys(one.manifest["benchmark"]["name"] for one in drawn)
    count = sum(one.manifest["result"]["images"] for one in drawn)
    several = f" of {len(drawn)} evaluations" if len(drawn) > len(names) else ""
    return f"{', '.join(names)}, {counted(count, 'image')}{several}"


def write(figure: Figure, path: Path) -> list[Path]:
    """Write a figure as PATH, and its numbers beside it; returns the files."""
    path.parent.mkdir(parents=True, exist_ok=True)
    numbers, table = path.with_suffix(".json"), path.with_suffix(".csv")
    write_atomic(numbers, to_json(figure.facts()))  # first: it says that the others are a plot's
    write_atomic(table, figure.table().encode("utf-8"))
    write_atomic(path, figure.svg().encode("utf-8"))
    return [path, numbers, table]


def write_page(settings: Settings, sources: Sequence[Source], folder: Path) -> list[Path]:
    """Write every figure that the sources allow, and a page of them; returns the files."""
    figures, missing, files = [], {}, []
    for kind in _kinds(settings, sources):
        try:
            figures.append(draw(dataclasses.replace(settings, kind=kind), sources))
        except ValueError as error:
            missing[kind] = str(error)
    if not figures:
        raise ValueError(
            f"the sources must hold what some figure shows; {next(iter(missing.values()))}"
        )
    for figure in figures:
        files += write(figure, folder / f"{figure.name}.svg")
    made = page.render(
        "plots.html",
        title="Plots",
        kind="plots of the paper",
        name="Plots of the paper",
        tiles=[],
        sections={figure.name: figure.name.replace("-", " ").capitalize() for figure in figures},
        figures=[(figure, Markup(figure.svg())) for figure in figures],
        missing=missing,
    )
    write_atomic(folder / PAGE, made)
    return [folder / PAGE, *files]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit status, see `cli.exit`."""
    # As in `suites.verbs`, everything is an argument: what is wrong with a source is, too.
    mistakes = exit.MISTAKES
    return exit.run(VERB, lambda: _plan(arguments), lambda planned: _work(*planned), mistakes)


def _plan(words: Sequence[str] | None) -> tuple[Settings, list[Source]]:
    parser = flags.Parser(VERB, Settings, description=_DESCRIPTION, epilog=_EPILOG)
    settings = flags.make_settings(Settings, parser.read(words))
    if settings.kind == ALL and settings.out.endswith(".svg"):
        raise ValueError(f"--out of {ALL} must be a folder; got {settings.out}.")
    if settings.kind != ALL and not settings.out.endswith(".svg"):
        raise ValueError(f"--out must end in .svg; got {settings.out}.")
    known = (*_kinds(settings, ()), ALL)
    if settings.kind not in known:
        near = near_name(settings.kind, known)
        raise ValueError(f"KIND must be one of {', '.join(known)}; got {settings.kind!r}{near}")
    if settings.kind == ALL:
        open_folder(settings.out)  # raises where it is a file
    sources = [facts.read_source(word) for word in settings.sources]
    _check_free(settings)
    return settings, sources


def _check_free(settings: Settings) -> None:
    """Raise ValueError where a file would be replaced that --out does not name, and no plot made.

    What an earlier plot made is known by its F.json, which it wrote first.
    """
    out = Path(settings.out).expanduser()
    figures, ends = [out], _ENDS[1:]
    if settings.kind == ALL:
        figures, ends = [out / f"{kind}.svg" for kind in _kinds(settings, ())], _ENDS
    ours = [holds(one.with_suffix(".json"), _FACTS) for one in figures]
    for figure, is_ours in zip(figures, ours, strict=True):
        check_own([figure.with_suffix(end) for end in ends], is_ours)
    if settings.kind == ALL:
        check_own([out / PAGE], any(ours))


def _work(settings: Settings, sources: list[Source]) -> None:
    out = Path(settings.out).expanduser()
    if settings.kind == ALL:
        say("\n".join(map(str, write_page(settings, sources, out))))
        return
    figure = draw(settings, sources)
    for warning in figure.warnings:
        note(f"warning: {warning}")
    say("\n".join(map(str, write(figure, out))))
