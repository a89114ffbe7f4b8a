"""`best REWARD`: many candidates of each prompt, judged by a reward; the best one is kept.

Candidates are made prompt by prompt and scored in the batch that made them. Pictures that can no
longer be the best are removed on the way, scores stay. Letters: P prompts, N candidates.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from miro_jax.cli.progress import Progress
from miro_jax.data.storage.files import to_json
from miro_jax.rewards.base import Reward
from miro_jax.sample import draw, make
from miro_jax.sample.curve import draw_curve, expected_best
from miro_jax.sample.folder import GRID, Folder
from miro_jax.sample.request import Asked, Picture, Settings, ask
from miro_jax.sample.scores import FILE as SCORES
from miro_jax.sample.scores import Scores
from miro_jax.sample.sheets import Column, Sheet, make_sheet

CANDIDATES, BEST = "candidates", "best"
CURVE, NUMBERS = "curve.svg", "curve.json"


@dataclasses.dataclass(frozen=True)
class Found:
    """What best-of-N found.

    Attributes:
      images: [P, H, W, 3] uint8, the best of each prompt.
      scores: [P, N] float64, all candidates. chosen: [P] int, which is the best.
      expected: [P, N] float64, the expected best score of n = 1..N candidates.
    """

    images: np.ndarray
    scores: np.ndarray
    chosen: np.ndarray
    expected: np.ndarray


def candidates(asked: Asked) -> tuple[Picture, ...]:
    """Return the candidates of all prompts, prompt by prompt; `asked.num_images` of each."""

    def columns(prompt):
        levels = (asked.positive(prompt), asked.negative(prompt))
        return [Column("", "", *levels, asked.settings.guidance_scale)]

    return make_sheet(asked, columns, "", folder=f"{CANDIDATES}/").pictures


def best_of(
    pipe: Any,
    prompts: str | Sequence[str],
    reward: Reward,
    num_candidates: int = 16,
    *,
    progress: bool = False,
    **request,
) -> Found:
    """Make candidates of prompts and keep the best by a reward.

    Args:
      pipe: a `MiroPipeline`. prompts: P texts, or one.
      reward: from `load_reward`. num_candidates: N.
      progress: show a bar on stderr.
      request: see `isolation_grid`.

    Raises:
      ValueError: an unknown reward or solver, a level that is no number. FloatingPointError: a
        score is not finite.
    """
    asked = ask(pipe.reward_names, prompts, num_candidates, **request)
    scores = np.full((len(asked.prompts), num_candidates), -np.inf)
    images: dict[int, np.ndarray] = {}
    with Progress("sample", "images", scores.size, silent=not progress) as shown:
        for batch in draw.batches(candidates(asked), pipe.batch_size):
            made = _draw_and_score(pipe, batch, reward, asked.settings)
            for picture, image, score in zip(batch, *made, strict=True):
                row = picture.prompt_index
                if score > scores[row].max():
                    images[row] = image
                scores[row, picture.sample_index] = score
            shown.update(len(batch))
    kept = np.stack([images[row] for row in range(len(scores))])
    return Found(kept, scores, scores.argmax(axis=1), expected_best(scores))


def fill(
    folder: Folder,
    pipe: Any,
    asked: Asked,
    reward: Reward,
    keep_candidates: bool = False,
    progress: bool = False,
) -> None:
    """Fill a folder, going on where it stopped.

    It gets `best/*.png`, `scores.jsonl` with all scores, `curve.svg` and `curve.json`, `grid.png`
    with the best of the first 1, 2, 4, ... candidates, `manifest.json`, and `candidates/*.png`
    where they are to be kept.

    Raises:
      FloatingPointError: a score is not finite.
    """
    pictures = candidates(asked)
    if not folder.is_complete():
        scores = Scores(folder.path / SCORES)
        _score(folder, pipe, asked, pictures, reward, scores, keep_candidates, progress)
        _finish(folder, pipe, asked, pictures, reward, scores, keep_candidates)
    if not keep_candidates:
        _remove(folder, (picture.file for picture in pictures))
        if (folder.path / CANDIDATES).is_dir():
            (folder.path / CANDIDATES).rmdir()


def milestones(count: int) -> list[int]:
    """Return 1, 2, 4, ... and `count`: the numbers of candidates that the grid shows."""
    return sorted({*(2**k for k in range(count.bit_length()) if 2**k <= count), count})


def _score(folder, pipe, asked, pictures, reward, scores, keep, progress) -> None:
    """Make and score the candidates that have no score yet."""
    total = asked.num_images
    if not keep:
        _prune(folder, pictures, scores, total, range(len(asked.prompts)))
    with Progress(
        "sample and score", "images", len(pictures), len(scores), silent=not progress
    ) as shown:
        for batch in draw.batches(pictures, pipe.batch_size):
            wanted = [(p.prompt_index, p.sample_index) not in scores for p in batch]
            if not any(wanted):
                continue
            made = _draw_and_score(pipe, batch, reward, asked.settings)
            new = [
                x for x, want in zip(zip(batch, *made, strict=True), wanted, strict=True) if want
            ]
            for picture, image, _ in new:
                folder.save(picture.file, image)
            scores.append([_line(picture, score, reward) for picture, _, score in new])
            if not keep:
                rows = sorted({picture.prompt_index for picture in batch})
                _prune(folder, pictures, scores, total, rows)
            shown.update(len(new))


def _finish(folder, pipe, asked, pictures, reward, scores, keep) -> None:
    total, name = asked.num_images, make.weights_name(pipe.trained)
    table = np.array([scores.of_prompt(row) for row in range(len(asked.prompts))])
    stages = milestones(total)
    shown = [
        [row * total + int(table[row, :n].argmax()) for n in stages] for row in range(len(table))
    ]
    _redraw(folder, pipe, asked, pictures, {i for line in shown for i in line})
    entries = []
    for row, line in enumerate(shown):
        picture = pictures[line[-1]]
        file = picture.file.replace(f"{CANDIDATES}/", f"{BEST}/")
        folder.write(file, (folder.path / picture.file).read_bytes())
        entries.append(
            make.entry(picture, asked.settings, pipe.trained, name)
            | {"file": file, "score": table[row].max(), "reward": reward.identity}
        )
    if keep:
        entries += [
            make.entry(picture, asked.settings, pipe.trained, name)
            | {"score": table.ravel()[i], "reward": reward.identity}
            for i, picture in enumerate(pictures)
        ]
    curves = expected_best(table)
    numbers = {
        "reward": reward.identity,
        "candidates": list(range(1, total + 1)),
        "expected_best": curves.mean(axis=0).tolist(),
        "expected_best_by_prompt": curves.tolist(),
    }
    folder.write(NUMBERS, to_json(numbers))
    folder.write(CURVE, draw_curve(table, reward.identity).encode("utf-8"))
    sheet = _sheet(asked, pictures, shown, table, stages, reward)
    folder.save(GRID, sheet.grid(folder.read([picture.file for picture in sheet.on_grid])))
    folder.finish(entries, [SCORES, CURVE, NUMBERS, GRID])


def _draw_and_score(
    pipe: Any, batch: Sequence[Picture], reward: Reward, settings: Settings
) -> tuple[np.ndarray, list[float]]:
    images = draw.draw(pipe, batch, settings)
    scores = [float(s) for s in reward.score(images, [picture.prompt for picture in batch])]
    for picture, score in zip(batch, scores, strict=True):
        if not math.isfinite(score):
            raise FloatingPointError(
                f"a score must be finite; {reward.identity} gave {score} to sample "
                f"{picture.sample_index} of {picture.prompt!r}."
            )
    return images, scores


def _line(picture: Picture, score: float, reward: Reward) -> dict[str, Any]:
    return {
        "prompt_index": picture.prompt_index,
        "sample_index": picture.sample_index,
        "seed": picture.seed,
        "reward": reward.identity,
        "score": score,
        "prompt": picture.prompt,
    }


def _prune(folder, pictures, scores: Scores, total: int, rows: Iterable[int]) -> None:
    """Remove the pictures of prompts that neither the grid nor the best file will need."""
    for row in rows:
        found = scores.of_prompt(row)
        ahead = [*(n for n in milestones(total) if n <= len(found)), len(found)]
        needed = {int(np.argmax(found[:n])) for n in ahead if n}
        _remove(folder, (pictures[row * total + i].file for i in set(range(len(found))) - needed))


def _remove(folder: Folder, files: Iterable[str]) -> None:
    for file in files:
        (folder.path / file).unlink(missing_ok=True)


def _redraw(folder, pipe, asked, pictures, indices: set[int]) -> None:
    """Draw pictures again that are scored and no longer there."""
    files = {pictures[i].file for i in indices if not folder.has(pictures[i].file)}
    for batch in draw.batches(pictures, pipe.batch_size):
        if files.isdisjoint(picture.file for picture in batch):
            continue
        images = draw.draw(pipe, batch, asked.settings)
        for picture, image in zip(batch, images, strict=True):
            if picture.file in files:
                folder.save(picture.file, image)


def _sheet(asked, pictures, shown, table, stages, reward) -> Sheet:
    """Lay out the best of the first n candidates: a row a prompt, a column an n."""
    rows = [
        f"{prompt.text} (first {line[0]:.3g}, best {line.max():.3g})"
        for prompt, line in zip(asked.prompts, table, strict=True)
    ]
    columns = [f"best of {n}" if n > 1 else "first" for n in stages]
    title = f"best of the first n candidates by {reward.identity}; {asked.settings.describe()}"
    chosen = tuple(pictures[i] for line in shown for i in line)
    return Sheet(chosen, tuple(rows), tuple(columns), 1, title)
