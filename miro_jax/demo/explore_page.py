"""The explorer's files: `index.html`, and for each prompt `data/NNNN.js` with its scores.

The page needs nothing else and no server. What belongs to a prompt is a script of its own, because
a page that was opened as a file may load scripts and images, and may fetch nothing; it is loaded
when the prompt comes into sight.
"""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from miro_jax.data.json_file import dump_json
from miro_jax.data.records.bins import Bins
from miro_jax.demo.explore_sheet import View
from miro_jax.demo.levels import measured_levels
from miro_jax.report import page
from miro_jax.rewards.base import Reward, prepare_image, score_prepared, stack_images
from miro_jax.rewards.failure import naming
from miro_jax.rewards.names import short_name
from miro_jax.sample.folder import Folder
from miro_jax.sample.request import Request
from miro_jax.sample.sheets import Sheet

PAGE = "index.html"
BATCH = 64  # images scored at a time


@dataclasses.dataclass(frozen=True)
class Explorer:
    """What the page shows.

    Attributes:
      sheet: all images. views: how its columns are walked through. request: what was requested.
      judges: rewards that score each image. bins: levels of training, None where not known.
      checkpoint: name of the network.
    """

    sheet: Sheet
    views: Sequence[View]
    request: Request
    judges: Sequence[Reward]
    bins: Bins | None
    checkpoint: str

    def write(self, folder: Folder) -> list[str]:
        """Write the files that a folder of images lacks; return the names of all."""
        per_prompt = len(self.sheet.images) // len(self.request.prompts)
        for index, prompt in enumerate(self.request.prompts):
            if folder.has(data_name(index)):
                continue
            files = self.sheet.files[index * per_prompt : (index + 1) * per_prompt]
            scores = self._score(folder, files, prompt.text)
            data = {"files": files, "scores": plain(scores), "levels": plain(self._levels(scores))}
            folder.write(data_name(index), f"explorer.add({index}, {dump_json(data)});\n".encode())
        folder.write(PAGE, page.render("explore.html", data=self.describe()))
        return page_files(self.request)

    def describe(self) -> dict[str, Any]:
        """Return what the page knows before any prompt is loaded, as plain JSON."""
        prompts, first, views = self.request.prompts, 0, []
        for view in self.views:
            positions = [
                {"label": column.label or _describe(column.targets), "targets": column.targets}
                for column in view.columns
            ]
            own = {"kind": view.kind, "rewards": view.rewards, "first": first}
            views.append(own | {"positions": positions})
            first += len(view.columns)
        return {
            "checkpoint": self.checkpoint,
            "settings": self.request.settings.describe(),
            "seed": self.request.seed,
            "num_images": self.request.num_images,
            "judges": [{"name": r.name, "identity": r.identity} for r in self.judges],
            "prompts": [
                {"text": prompt.text, "targets": self.request.positive(prompt)}
                for prompt in prompts
            ],
            "views": views,
        }

    def _score(self, folder: Folder, files: Sequence[str], prompt: str) -> np.ndarray:
        """Score the images of a prompt, [N, J] float32 on the rewards' own scales."""
        scores = np.zeros((len(files), len(self.judges)), np.float32)
        for start in range(0, len(files) if self.judges else 0, BATCH):
            some = files[start : start + BATCH]
            images = folder.read(some)
            captions = [{"caption": [prompt] * len(images)}]
            with naming(some):
                prepared = stack_images([prepare_image(self.judges, image) for image in images])
                made = score_prepared(self.judges, prepared, captions, stored=False)
            scores[start : start + BATCH] = made[0]
        return scores

    def _levels(self, scores: np.ndarray) -> np.ndarray:
        """Return the levels that training would have given scores [N, J]; NaN: not known."""
        if self.bins is None:
            return np.full(scores.shape, np.nan, np.float32)
        stored = [judge.stored(column) for judge, column in zip(self.judges, scores.T, strict=True)]
        columns = np.array(stored, np.float64).reshape(len(self.judges), len(scores)).T
        return measured_levels(self.bins, self.judges, columns)


def page_files(request: Request) -> list[str]:
    """Return the names of the files that show the images of a request."""
    return [PAGE, *map(data_name, range(len(request.prompts)))]


def data_name(index: int) -> str:
    """Return the name of the file of a prompt."""
    return f"data/{index:04d}.js"


def plain(values: np.ndarray) -> list[list[float | None]]:
    """Return numbers [N, J] for JSON, four digits each; None for what is not finite."""
    return [[round(float(x), 4) if np.isfinite(x) else None for x in row] for row in values]


def _describe(targets: Any) -> str:
    return ", ".join(f"{short_name(name)} {level:.2g}" for name, level in targets.items())
