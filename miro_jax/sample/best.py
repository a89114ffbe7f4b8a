"""Best-of-N: many candidates of each prompt, judged by a reward; the best one is kept.

Candidates are made prompt by prompt and scored in the batch that made them. Images that can no
longer be the best are removed on the way, scores stay. Letters: P prompts, N candidates.
"""

import dataclasses
import math
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from miro_jax.data.json_file import dump_lines, parse_json
from miro_jax.data.regular_file import check_regular, open_regular
from miro_jax.data.storage.files import to_json
from miro_jax.report.page import format_number
from miro_jax.rewards.base import Reward, require_built
from miro_jax.sample import draw
from miro_jax.sample.curve import draw_curve, expected_best
from miro_jax.sample.folder import Folder
from miro_jax.sample.objective import Objective
from miro_jax.sample.request import ImageRequest, Request
from miro_jax.sample.sheets import GRID, Sheet, row_label
from miro_jax.sample.usual import request_of
from miro_jax.sample.verbs import CANDIDATES, CURVE, NUMBERS, SCORES, Best

BEST = "best/"
_LINE = {"prompt_index": int, "sample_index": int, "score": float}


@dataclasses.dataclass(frozen=True)
class BestImages:
    """The result of best-of-N.

    Attributes:
      images: [P, H, W, 3] uint8, the best of each prompt.
      scores: [P, N] float64, all candidates. chosen: [P] int, which is the best.
      expected: [P, N] float64, the expected best score of n = 1..N candidates.
    """

    images: np.ndarray
    scores: np.ndarray
    chosen: np.ndarray
    expected: np.ndarray


def best_of(
    pipe: Any,
    prompts: str | Sequence[str],
    reward: Reward,
    num_candidates: int = Best.candidates,
    *,
    progress: bool = False,
    **request: Any,
) -> BestImages:
    """Make candidates of prompts and keep the best by a reward.

    Args:
      pipe: a `MiroPipeline`. prompts: P texts, or one.
      reward: from `load_reward`. num_candidates: N.
      progress: show a bar on stderr.
      **request: see `isolation_grid`; one image of a prompt is kept, so without `num_images`.

    Raises:
      TypeError: the reward is a name, or an unknown argument.
      ValueError: an unknown reward or solver, a level outside of [0, 1]. FloatingPointError: a
        score is not finite.
    """
    require_built(reward)
    if "num_images" in request:
        raise TypeError("best_of keeps one image of each prompt; give num_candidates alone.")
    made = request_of(pipe, prompts, num_candidates, **request)
    candidates = Best(reward.identity).sheet(made).images
    scores = np.full((len(made.prompts), num_candidates), -np.inf)
    images: dict[int, np.ndarray] = {}
    for batch, drawn in draw.draw_batches(pipe, candidates, progress=progress):
        given = score_batch(reward, batch, drawn)
        for candidate, pixels, score in zip(batch, drawn, given, strict=True):
            row = candidate.prompt_index
            if score > scores[row].max():
                images[row] = pixels
            scores[row, candidate.sample_index] = score
    best = np.stack([images[row] for row in range(len(scores))])
    return BestImages(best, scores, scores.argmax(axis=1), expected_best(scores))


def score_batch(
    judge: Reward | Objective, batch: Sequence[ImageRequest], images: np.ndarray
) -> list[float]:
    """Return the scores of a batch that was drawn; FloatingPointError where one is not finite."""
    try:
        scores = judge.score(images, [image.prompt for image in batch]).tolist()
    except FloatingPointError as error:
        raise FloatingPointError(f"{error} images[0] is {batch[0].file}.") from error
    for image, score in zip(batch, scores, strict=True):
        if not math.isfinite(score):  # of a reward that may have none
            raise FloatingPointError(
                f"a score must be finite; {judge.identity} gave {score} to sample "
                f"{image.sample_index} of {image.prompt!r}."
            )
    return scores


def milestones(count: int) -> list[int]:
    """Return 1, 2, 4, ... and `count`: the numbers of candidates that the grid shows."""
    return sorted({*(2**k for k in range(count.bit_length()) if 2**k <= count), count})


def fill(
    folder: Folder,
    pipe: Any,
    request: Request,
    reward: Reward,
    keep_candidates: bool = False,
) -> None:
    """Fill a folder, resuming where it stopped.

    It gets `best/*.png`, `scores.jsonl` with all scores, `curve.svg` and `curve.json`, `grid.png`
    with the best of the first 1, 2, 4, ... candidates, `manifest.json`, and `candidates/*.png`
    where they are to be kept.

    Raises:
      FloatingPointError: a score is not finite.
    """
    candidates = Best(reward.identity).sheet(request).images
    job = _Filling(folder, pipe, request, reward, keep_candidates, candidates)
    if not folder.is_complete():
        if not folder.has(SCORES):  # it has changed since it was complete
            folder.remove(SCORES)
        folder.forget(SCORES)
        scores = Scores(folder.path / SCORES)
        job.score(scores)
        job.finish(np.array([scores.of_prompt(row) for row in range(len(request.prompts))]))
    if not keep_candidates:
        job.remove(range(len(candidates)))
        if (folder.path / CANDIDATES).is_dir():
            (folder.path / CANDIDATES).rmdir()


@dataclasses.dataclass(frozen=True)
class _Filling:
    """A folder being filled; the arguments of `fill`, and the candidates, prompt by prompt."""

    folder: Folder
    pipe: Any
    request: Request
    reward: Reward
    keep: bool
    candidates: Sequence[ImageRequest]

    def score(self, scores: "Scores") -> None:
        """Draw and score the candidates that have no score yet."""
        self._prune(scores, range(len(self.request.prompts)))
        for batch, drawn in draw.draw_batches(
            self.pipe, self.candidates, scores.lack, True, "sample and score"
        ):
            lines = []
            given = score_batch(self.reward, batch, drawn)
            for candidate, pixels, score in zip(batch, drawn, given, strict=True):
                if scores.lack(candidate):
                    self.folder.save(candidate.file, pixels)
                    lines.append(self._line(candidate, score))
            scores.append(lines)
            self._prune(scores, {candidate.prompt_index for candidate in batch})

    def _line(self, candidate: ImageRequest, score: float) -> dict[str, Any]:
        """Return the line of `scores.jsonl`."""
        return {
            "prompt_index": candidate.prompt_index,
            "sample_index": candidate.sample_index,
            "seed": candidate.seed,
            "reward": self.reward.identity,
            "score": score,
            "prompt": candidate.prompt,
        }

    def _prune(self, scores: "Scores", rows: Iterable[int]) -> None:
        """Remove the images of prompts that neither the grid nor the best file will need."""
        total = 0 if self.keep else self.request.num_images
        for row in rows if total else ():
            values = scores.of_prompt(row)
            ahead = [*(n for n in milestones(total) if n <= len(values)), len(values)]
            needed = {int(np.argmax(values[:n])) for n in ahead if n}
            self.remove(row * total + i for i in set(range(len(values))) - needed)

    def remove(self, indices: Iterable[int]) -> None:
        """Remove the images of candidates."""
        for index in indices:
            self.folder.remove(self.candidates[index].file)

    def finish(self, table: np.ndarray) -> None:
        """Write what the scores [P, N] show, and the manifest."""
        total = self.request.num_images
        stages = milestones(total)
        shown = [
            [row * total + int(values[:n].argmax()) for n in stages]
            for row, values in enumerate(table)
        ]
        self._redraw({self.candidates[index].file for row in shown for index in row})
        entries = self._entries([row[-1] for row in shown], table)
        curves = expected_best(table)
        numbers = {
            "reward": self.reward.identity,
            "candidates": list(range(1, total + 1)),
            "expected_best": curves.mean(axis=0).tolist(),
            "expected_best_by_prompt": curves.tolist(),
        }
        self.folder.write(NUMBERS, to_json(numbers))
        self.folder.write(CURVE, draw_curve(table, self.reward.identity).encode("utf-8"))
        rows = [
            row_label(
                prompt.text,
                f" (first {format_number(values[0])}, best {format_number(values.max())})",
            )
            for prompt, values in zip(self.request.prompts, table, strict=True)
        ]
        columns = [f"best of {n}" if n > 1 else "first" for n in stages]
        title = f"best of the first n candidates by {self.reward.identity}; "
        title += self.request.settings.describe()
        chosen = tuple(self.candidates[i] for row in shown for i in row)
        draw.write_grid(Sheet(chosen, tuple(rows), tuple(columns), 1, title), self.folder)
        self.folder.finish(entries, [SCORES, CURVE, NUMBERS, GRID])

    def _redraw(self, files: set[str]) -> None:
        """Draw images again that are scored and no longer there."""

        def lost(candidate: ImageRequest) -> bool:
            return candidate.file in files and self.folder.lacks(candidate)

        for batch, drawn in draw.draw_batches(self.pipe, self.candidates, lost):
            for candidate, pixels in zip(batch, drawn, strict=True):
                if lost(candidate):
                    self.folder.save(candidate.file, pixels)

    def _entries(self, best: Sequence[int], table: np.ndarray) -> list[dict[str, Any]]:
        """Write the best images; return the entries of the manifest."""
        describe, entries = draw.entry_of(self.pipe.trained), []
        for index in [*best, *(range(len(self.candidates)) if self.keep else ())]:
            judged = {"score": table.ravel()[index], "reward": self.reward.identity}
            entries.append(describe(self.candidates[index]) | judged)
        for entry in entries[: len(best)]:
            with open_regular(self.folder.path / entry["file"]) as file:
                image = file.read()
            entry["file"] = entry["file"].replace(CANDIDATES, BEST)
            self.folder.write(entry["file"], image)
        return entries


class Scores:
    """The scored candidates of a folder, one JSON line each, appended batch by batch.

    A kill can leave the last line half written. It is cut off when the file is opened again, so
    that the file ends up the same as if nothing had happened.

    Args:
      path: of the file; made where it is missing. None keeps the scores in memory alone.

    Raises:
      ValueError: a line that is not the last is no JSON.
    """

    def __init__(self, path: Path | None):
        self._scores: dict[tuple[int, int], float] = {}  # by prompt and sample index
        self.path = path
        if path is not None:
            self._read(path)

    def _read(self, path: Path) -> None:
        check_regular(path)
        data = path.read_bytes() if path.exists() else b""
        whole = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(whole.splitlines(), 1):
            name = f"line {number} of {path}"
            try:
                self._note(parse_json(line, name, _LINE))
            except ValueError as error:
                raise ValueError(f"{name} is damaged: {error} Delete the folder.") from error
        with path.open("ab") as file:
            file.truncate(len(whole))

    def lack(self, candidate: ImageRequest) -> bool:
        """Return whether a candidate has no score yet."""
        return (candidate.prompt_index, candidate.sample_index) not in self._scores

    def of(self, candidate: ImageRequest) -> float:
        """Return the score of a candidate."""
        return self._scores[candidate.prompt_index, candidate.sample_index]

    def of_prompt(self, prompt_index: int) -> list[float]:
        """Return the scores of a prompt's candidates, from the first to the last without a gap."""
        scores: list[float] = []
        while (prompt_index, len(scores)) in self._scores:
            scores.append(self._scores[prompt_index, len(scores)])
        return scores

    def append(self, lines: Sequence[dict[str, Any]]) -> None:
        """Add lines with `prompt_index`, `sample_index` and `score`, and flush them to the disk."""
        if self.path is not None:
            data = dump_lines(lines)
            with self.path.open("ab") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        for line in lines:
            self._note(line)

    def _note(self, line: dict[str, Any]) -> None:
        self._scores[line["prompt_index"], line["sample_index"]] = float(line["score"])
