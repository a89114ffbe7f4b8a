"""Images of a suite from a checkpoint: the sampler of `miro-jax sample`, into OUT/images.

Every image has its own noise by (seed, prompt, sample); batches run on all devices; a run that was
killed resumes. One folder of images serves every judge that comes later.
"""

import dataclasses
from argparse import Namespace
from pathlib import Path
from typing import Any

from miro_jax import sample
from miro_jax.cli.flags import make_settings
from miro_jax.evaluate.suites.base import Suite
from miro_jax.sample.request import Prompt, Request
from miro_jax.sample.settings import Options
from miro_jax.sample.settings import Settings as How
from miro_jax.sample.sheets import Sheet
from miro_jax.sample.verbs import Images

IMAGES = "images"


@dataclasses.dataclass(frozen=True)
class Sampling:
    """A checked request. out: folder of the images. step: of a run's checkpoint, or the newest."""

    options: Options
    request: Request
    sheet: Sheet
    out: Path
    step: int | None = None

    @property
    def facts(self) -> dict[str, Any]:
        """What the images depend on, as far as it is known without weights."""
        return self.request.describe("images", self.sheet.images)


def plan(
    source: str,
    suite: Suite,
    per_prompt: int,
    flags: Namespace,
    out: Path,
    step: int | None = None,
) -> Sampling:
    """Check how to sample; a preset or a run's own config says what flags do not.

    Args:
      source: a run, a folder in the released layout, or a hub id. per_prompt: images of each.
      flags: of `sample.settings` and of `Request`; its seed is None where it is not given.

    Raises:
      FileNotFoundError: no such checkpoint or preset. ValueError: a bad value, or out holds other
        images.
    """
    options = make_settings(Options, flags, checkpoint=source)
    names, config, usual, _ = sample.preset.read_defaults(options)
    given, seed = usual.put_before(flags), 0 if config is None else config["seed"]
    flags.seed = seed if flags.seed is None else flags.seed
    prompts = tuple(Prompt(prompt.text) for prompt in suite.prompts)
    how = make_settings(How, flags, **given)
    flags.num_images = per_prompt
    request = make_settings(Request, flags, names=names, prompts=prompts, settings=how)
    sampling = Sampling(options, request, Images().sheet(request), out, step)
    names = [*sampling.sheet.files, *Images.beside]
    sample.folder.check_folder(out, sampling.facts, names)
    sample.batches.check_rows(options.batch_size)
    return sampling


def fill(sampling: Sampling) -> None:
    """Sample what is not there yet; ValueError where the images there are of other weights."""
    pipe = sample.pipeline.open_pipeline(sampling.options, sampling.step)
    sample.draw.check_images(pipe, sampling.sheet.images)
    opened = sample.draw.describe_opened(pipe, sampling.options)
    if (sampling.out / sample.folder.MANIFEST_NAME).is_file():
        # Another machine may judge: its batches and its dtype change no more than rounding.
        compared = {key: opened[key] for key in ("checkpoint", "text_encoder", "vae")}
        sample.folder.check_folder(sampling.out, sampling.facts | compared)
        return
    facts = sampling.facts | opened
    with sample.folder.open_folder(sampling.out, facts, sampling.sheet.files) as folder:
        sample.draw.fill(folder, pipe, sampling.sheet, progress=True)
