"""Suites whose judges run elsewhere: their own prompt file in, the folder their judge wants out.

    hpsv2          FOLDER/<style>.json, a list of prompts       <style>/00012.jpg
    genai_bench    genai_image.json, {"00012": {"prompt": ...}} 00012.jpeg
    dpg_bench      FOLDER/<id>.txt                              <id>.png, a grid of four images
    t2i_compbench  FOLDER/<category>_val.txt, a prompt a line   <category>/samples/PROMPT_000012.png
    geneval2       geneval2_data.jsonl, {"prompt": ...} a line  00012_0.png, image_paths.json
    unigenbench    a CSV with the columns index and prompt      12_0.png

Any other suite is written in GenEval's layout, which its own tool and the authors' scorers read.

Prompt files are read from the user's copy, none of them comes with this package. What is measured
here of such a suite are rewards: a VQAScore on its prompts is a number of its own name, never the
suite's.
"""

import csv
import dataclasses
import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from miro_jax.data.json_file import MOST_BYTES, dump_json, dump_lines, parse_json, read_json
from miro_jax.data.regular_file import read_regular
from miro_jax.data.sources.images import load_rgb
from miro_jax.data.storage.files import write_atomic
from miro_jax.evaluate.suites.base import Suite, SuitePrompt
from miro_jax.evaluate.suites.find import METADATA, SAMPLES, Found, SuiteImage

STYLES = ("anime", "concept-art", "paintings", "photo")
_JPEG_QUALITY = 95
INDEX = "image_paths.json"


@dataclasses.dataclass(frozen=True)
class Adapter:
    """How a suite is read and written.

    Attributes:
      samples_per_prompt: by the suite's rule. read: path -> prompts.
      name: image -> where it is to lie, below the folder; its ending is the format.
      grid: the images of a prompt are the cells of one file.
      index: a file that maps prompts to images is written too. depth: parts of a name.
    """

    samples_per_prompt: int
    read: Callable[[Path], list[SuitePrompt]]
    name: Callable[[SuiteImage], str]
    grid: bool = False
    index: bool = False
    depth: int = 1


def make_suite(name: str, path: str | Path) -> Suite:
    """Read the prompts of a suite from the user's copy.

    Args:
      name: of ADAPTERS. path: the file or folder that the suite ships.

    Raises:
      FileNotFoundError: it is missing. ValueError: it holds something else.
    """
    adapter, path = ADAPTERS[name], Path(path).expanduser()
    if not path.exists():
        raise FileNotFoundError(
            f"{path} must be the prompts of {name}, from your copy of it; there is no such path."
        )
    prompts = adapter.read(path)
    if not prompts:
        raise ValueError(f"{path} must hold prompts of {name}; it holds none.")
    texts = "\0".join(f"{prompt.key}\0{prompt.text}" for prompt in prompts)
    digest = hashlib.sha256(texts.encode("utf-8")).hexdigest()[:8]
    return Suite(f"{name}@{digest}", tuple(prompts), adapter.samples_per_prompt)


def write_folder(name: str, found: Found, folder: Path) -> int:
    """Write images as the judge of a suite wants them; returns the number of files.

    A file that is there already is not written again, so a stopped export resumes.

    Args:
      name: of ADAPTERS. found: the images of the suite. folder: to fill.

    Raises:
      BadImage: an image cannot be read; the images differ in size where they share a file.
    """
    adapter, files, index = ADAPTERS.get(name, _GENEVAL), 0, {}
    for group in _groups(found.images, adapter.grid):
        target = adapter.name(group[0])
        _check_name(target, adapter)
        path = folder / target
        index.setdefault(group[0].prompt.text, str(path))
        files += 1
        if path.is_file():
            continue
        path.parent.mkdir(parents=True, exist_ok=True)
        data = [image.read() for image in group]
        same = len(data) == 1 and Path(group[0].file).suffix.lower() == path.suffix.lower()
        write_atomic(path, data[0] if same else _encode(data, path.suffix))
    if adapter is _GENEVAL:
        for prompt in {image.key: image.prompt for image in found.images}.values():
            line = {"prompt": prompt.text, "tag": prompt.tag, **prompt.metadata}
            write_atomic(folder / prompt.key / METADATA, dump_lines([line]))
    if adapter.index:
        write_atomic(folder / INDEX, (dump_json(index, indent=1) + "\n").encode("utf-8"))
    return files


def _check_name(target: str, adapter: Adapter) -> None:
    """Raise ValueError unless a name made of a prompt or a key stays in its folder."""
    parts = target.split("/")
    if len(parts) != adapter.depth or not all(parts) or ".." in parts or "\0" in target:
        raise ValueError(f"The name of a file cannot be made of {target[:60]!r}.")


def _groups(images: Sequence[SuiteImage], grid: bool) -> Iterator[list[SuiteImage]]:
    """Yield the images of each file."""
    if not grid:
        yield from ([image] for image in images)
        return
    by_key: dict[str, list[SuiteImage]] = {}
    for image in images:
        by_key.setdefault(image.key, []).append(image)
    yield from by_key.values()


def _encode(data: Sequence[bytes], suffix: str) -> bytes:
    """Return images as one file, several as a square grid in rows."""
    pixels = [load_rgb(one, min_side=1) for one in data]
    if len(pixels) > 1:
        side = round(len(pixels) ** 0.5)
        if side * side != len(pixels) or len({one.shape for one in pixels}) > 1:
            raise ValueError(
                "A grid needs a square number of images of one size; got "
                f"{len(pixels)} of {sorted({one.shape[:2] for one in pixels})}."
            )
        rows = [np.concatenate(pixels[n : n + side], 1) for n in range(0, len(pixels), side)]
        pixels = [np.concatenate(rows, 0)]
    out = io.BytesIO()
    if suffix in (".jpg", ".jpeg"):
        Image.fromarray(pixels[0]).save(out, "JPEG", quality=_JPEG_QUALITY, subsampling=0)
    else:
        Image.fromarray(pixels[0]).save(out, "PNG")
    return out.getvalue()


def _read_hpsv2(path: Path) -> list[SuitePrompt]:
    prompts = []
    for style in STYLES:
        for number, text in enumerate(read_json(path / f"{style}.json", [str])):
            prompts.append(SuitePrompt(f"{style}/{number:05d}", text, style))
    return prompts


def _read_genai(path: Path) -> list[SuitePrompt]:
    entries = read_json(path, {str: {"prompt": str}})
    return [SuitePrompt(key, entries[key]["prompt"]) for key in sorted(entries)]


def _read_dpg(path: Path) -> list[SuitePrompt]:
    files = sorted(path.glob("*.txt"))
    texts = [read_regular(file, MOST_BYTES).decode("utf-8").strip() for file in files]
    return [SuitePrompt(file.stem, text) for file, text in zip(files, texts, strict=True)]


def _read_compbench(path: Path) -> list[SuitePrompt]:
    prompts = []
    for file in sorted(path.glob("*_val.txt")):
        category = file.stem.removesuffix("_val")
        lines = read_regular(file, MOST_BYTES).decode("utf-8").splitlines()
        texts = [line.strip() for line in lines if line.strip()]
        prompts += [
            SuitePrompt(f"{category}/{number:06d}", text, category)
            for number, text in enumerate(texts)
        ]
    return prompts


def _read_geneval2(path: Path) -> list[SuitePrompt]:
    lines = read_regular(path, MOST_BYTES).splitlines()
    entries = [
        parse_json(line, f"line {number} of {path}", {"prompt": str})
        for number, line in enumerate(lines, 1)
        if line.strip()
    ]
    return [SuitePrompt(f"{number:05d}", one["prompt"]) for number, one in enumerate(entries)]


def _read_unigenbench(path: Path) -> list[SuitePrompt]:
    text = read_regular(path, MOST_BYTES).decode("utf-8-sig")
    rows = list(csv.DictReader(io.StringIO(text)))
    column = next((n for n in ("prompt", "prompt_en") if rows and n in rows[0]), None)
    if column is None or "index" not in rows[0]:
        raise ValueError(f"{path} must have the columns index and prompt (or prompt_en).")
    return [SuitePrompt(row["index"], row[column]) for row in rows]


ADAPTERS: dict[str, Adapter] = {
    "hpsv2": Adapter(1, _read_hpsv2, lambda image: f"{image.key}.jpg", depth=2),
    "genai_bench": Adapter(1, _read_genai, lambda image: f"{image.key}.jpeg"),
    "dpg_bench": Adapter(4, _read_dpg, lambda image: f"{image.key}.png", grid=True),
    "t2i_compbench": Adapter(
        10,
        _read_compbench,
        lambda image: (
            f"{image.prompt.tag}/samples/{image.prompt.text}_"
            f"{10 * int(image.key[-6:]) + image.sample:06d}.png"
        ),
        depth=3,
    ),
    "geneval2": Adapter(
        1, _read_geneval2, lambda image: f"{image.key}_{image.sample}.png", index=True
    ),
    "unigenbench": Adapter(4, _read_unigenbench, lambda image: f"{image.key}_{image.sample}.png"),
}
_GENEVAL = Adapter(
    4, lambda _: [], lambda i: f"{i.key}/{SAMPLES}/{i.sample:05d}{Path(i.file).suffix}", depth=3
)
