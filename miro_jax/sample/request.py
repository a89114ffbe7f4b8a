"""What is requested when sampling: prompts, targets and settings, down to the single image.

An image depends on its own `ImageRequest` and the weights alone: work can be cut, stopped and
resumed at any image. The same fields stand in a manifest's `images`.

A prompt file holds a prompt a line, or JSON, lines or a list, of texts or of what is requested for
each prompt:

    {"prompt": "a red fox in snow", "targets": {"aesthetic": 0.6, "clip": null}, "seed": 7}

`targets`, `negative_targets` and `seed` are optional; null requests nothing of that reward. Other
keys are ignored, so that files of benchmarks can be given as they are.
"""

import dataclasses
import difflib
import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any

from miro_jax import __version__
from miro_jax.cli.flags import check, from_call, option
from miro_jax.data.json_file import MOST_BYTES, check_fields, is_json_lines, parse_json
from miro_jax.data.regular_file import read_regular
from miro_jax.data.sources.foreign import name_foreign
from miro_jax.data.sources.texts import encodable
from miro_jax.data.storage.files import to_json
from miro_jax.models.targets import name_once, parse_targets, to_levels, unknown_reward
from miro_jax.rewards.names import short_name
from miro_jax.sample.settings import MOST_SEEDS, WHAT, Options, Settings, check_seed, list_prompts

Levels = dict[str, float | None]  # reward -> level in [0, 1]; None is not requested
Targets = Mapping[str, float | None] | Sequence[Mapping[str, float | None]] | None

LONGEST_NAME = 40  # letters of a prompt in a file name
JSON_LINES = (".jsonl", ".ndjson", ".jsonlines", ".ldjson")
TABLES = (".csv", ".tsv", ".parquet", ".xlsx", ".xls", ".ods", ".arrow", ".feather")
OTHERS = (*TABLES, ".yaml", ".yml", ".toml", ".pkl", ".npy", ".gz", ".zip")
_NONE: Mapping[str, float | None] = MappingProxyType({})
_LIKELY_MISTAKE = 0.8  # how much alike two keys are, 1 is equal
_LEVELS = ({str: (float, None)}, None)
_OWN = {"file": str, "prompt": str, "prompt_index": int, "sample_index": int, "seed": int} | (
    dict.fromkeys(("targets", "negative_targets"), {str: (float, None)})
)
_HOW = Settings().to_json()  # fields that every entry has
_ENTRY = {"prompt": str, "targets?": _LEVELS, "negative_targets?": _LEVELS, "seed?": (int, None)}


@dataclasses.dataclass(frozen=True)
class ImageRequest:
    """One requested image.

    Attributes:
      file: its name in the folder.
      prompt, prompt_index, sample_index, seed: what it shows, and which noise it starts from.
      targets, negative_targets: levels of all rewards.
      settings: how it is sampled.
    """

    file: str
    prompt: str
    prompt_index: int
    sample_index: int
    seed: int
    targets: Levels
    negative_targets: Levels
    settings: Settings

    def to_entry(self) -> dict[str, Any]:
        """Return the request as an entry of a manifest: one flat JSON object."""
        entry = dataclasses.asdict(self)
        del entry["settings"]
        return entry | self.settings.to_json()

    @classmethod
    def from_entry(cls, entry: Mapping[str, Any]) -> "ImageRequest":
        """Read an entry of a manifest; ValueError where it is none, or for a bad value."""
        own, how = dataclasses.fields(cls)[:-1], dataclasses.fields(Settings)
        check_fields(entry, _OWN | dict.fromkeys(_HOW, object), "the entry of an image")
        check_seed(entry["seed"])
        given = {field.name: entry[field.name] for field in how if field.name in entry}
        settings = Settings(**given)
        return cls(**{field.name: entry[field.name] for field in own}, settings=settings)


@dataclasses.dataclass(frozen=True)
class Prompt:
    """One prompt, with what is requested for it besides what is requested for all.

    Attributes:
      text: the prompt. seed: None is that of the request.
      targets, negative_targets: levels of some rewards.
    """

    text: str
    targets: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    negative_targets: Mapping[str, float | None] = dataclasses.field(default_factory=dict)
    seed: int | None = None


@dataclasses.dataclass(frozen=True)
class Request:
    """Prompts and what is requested for all of them, checked.

    Attributes:
      names: rewards that the network is conditioned on, in order.
      prompts: what to draw. num_images: of each, everything else equal.
      seed: of the noise.
      targets, negative_targets: of some rewards, by their names or short names, in one mapping or
        in several, of which later ones count more; the others get 1 and 0.
      settings: how to sample.

    Raises:
      ValueError: an unknown reward, one named twice in a mapping, a level outside of [0, 1], a
        number outside of its range.
    """

    names: tuple[str, ...]
    prompts: tuple[Prompt, ...]
    num_images: int = option(
        1,
        at_least=1,
        flag="images",
        group=WHAT,
        metavar="N",
        help="images of each prompt and setting",
    )
    seed: int = option(
        0, at_least=0, at_most=MOST_SEEDS - 1, group=WHAT, metavar="N", help="of the noise"
    )
    targets: Targets = option(
        None,
        repeat=True,
        parse=parse_targets,
        flag="target",
        group=WHAT,
        metavar="NAME=LEVEL",
        help="level of a reward in [0, 1], 1 is best, or none = not requested; repeat it or put "
        "commas between (default: the run's, or 1 for all)",
    )
    negative_targets: Targets = option(
        None,
        repeat=True,
        parse=parse_targets,
        flag="negative-target",
        group=WHAT,
        metavar="NAME=LEVEL",
        help="the same for the negative branch of guidance (default: the run's, or 0 for all; "
        "isolate, tradeoff: as --target)",
    )
    settings: Settings = dataclasses.field(default_factory=Settings)

    def __post_init__(self):
        if not self.prompts:
            raise ValueError("at least one prompt is needed; got none.")
        check_seed(self.seed)
        check(self)
        for key in ("targets", "negative_targets"):
            object.__setattr__(self, key, self._levels(getattr(self, key)))
        for number, prompt in enumerate(self.prompts, 1):
            try:
                check_seed(self.seed if prompt.seed is None else prompt.seed)
                self._levels(prompt.targets)
                self._levels(prompt.negative_targets)
            except ValueError as error:
                raise ValueError(f"prompt {number}, {prompt.text[:60]!r}: {error}") from error

    def _levels(self, targets: Targets) -> Levels:
        """Return levels under the names of the network, checked."""
        parts = targets if isinstance(targets, list | tuple) else [targets or {}]
        if wrong := [part for part in parts if not isinstance(part, Mapping)]:
            raise TypeError(f"targets must be {{name: level}}; got {wrong[0]!r:.60}.")
        merged: Levels = {}
        for part in parts:
            merged |= name_once((find_reward(k, self.names), level) for k, level in part.items())
        to_levels(merged, 1, self.names, 1.0)
        return merged

    def positive(self, prompt: Prompt, over: Mapping[str, float | None] = _NONE) -> Levels:
        """Return the levels requested for a prompt, all rewards written out.

        Args:
          prompt: one of the prompts, whose own levels count most.
          over: levels in place of those of the request.
        """
        levels = dict.fromkeys(self.names, 1.0) | self.targets | dict(over)
        return levels | self._levels(prompt.targets)

    def negative(
        self,
        prompt: Prompt,
        default: Mapping[str, float | None] | None = None,
        over: Mapping[str, float | None] = _NONE,
    ) -> Levels:
        """Return the levels of the negative branch, all rewards written out.

        Args:
          prompt, over: see `positive`.
          default: of the rewards that are not named; None is 0.
        """
        levels = dict.fromkeys(self.names, 0.0) if default is None else dict(default)
        levels |= self.negative_targets | dict(over)
        return levels | self._levels(prompt.negative_targets)

    def find(self, *names: str) -> tuple[str, ...]:
        """Return the network's names of rewards; ValueError for one that it does not have."""
        return tuple(find_reward(name, self.names) for name in names)

    def describe(self, verb: str, images: Sequence[ImageRequest], **facts: Any) -> dict[str, Any]:
        """Return the request in plain JSON, as far as it is known without the weights.

        Args:
          verb: what is made of the images. images: all of them.
          facts: what else the files depend on.
        """
        own = [
            {"targets": self._levels(p.targets), "seed": p.seed}
            | {"negative_targets": self._levels(p.negative_targets)}
            for p in self.prompts
        ]
        if any(p.targets or p.negative_targets or p.seed is not None for p in self.prompts):
            facts["of_prompts"] = own
        known = (*(field.name for field in dataclasses.fields(ImageRequest)), "guidance_scale")
        entries = [{k: v for k, v in i.to_entry().items() if k in known} for i in images]
        return {
            "verb": verb,
            "prompts": [prompt.text for prompt in self.prompts],
            "images_per_prompt": self.num_images,
            "seed": self.seed,
            "targets": self.targets,
            "negative_targets": self.negative_targets,
            **self.settings.to_json(),
            **facts,
            "pictures_sha256": hashlib.sha256(to_json(entries)).hexdigest(),
            "miro_jax": __version__,
        }


def make_request(
    names: Sequence[str],
    prompts: str | Sequence[str | Prompt],
    num_images: int = Request.num_images,
    seed: int = Request.seed,
    targets: Targets = None,
    negative_targets: Targets = None,
    **settings: Any,
) -> Request:
    """Put a request together, as calls from Python write it.

    Args:
      names: rewards that the network is conditioned on.
      prompts, num_images, seed, targets, negative_targets: see `Request`.
      **settings: fields of `Settings`.

    Raises:
      TypeError: a prompt of another kind, or an unknown argument. ValueError: see `Request`.
    """
    texts = list_prompts(prompts, (str, Prompt))
    every = tuple(p if isinstance(p, Prompt) else Prompt(p) for p in texts)
    how = from_call(Settings, settings)
    return Request(tuple(names), every, num_images, seed, targets, negative_targets, how)


def find_reward(name: str, names: Sequence[str]) -> str:
    """Return the one of `names` that a name means: hpsv2@2.1 and my.py:Redness by their short ones.

    Raises:
      ValueError: there is none, or more than one.
    """
    if not isinstance(name, str):
        raise TypeError(f"The name of a reward must be a text; got {name!r:.60}.")
    short = short_name(name)
    matches = [name] if name in names else [n for n in names if short_name(n) == short]
    if len(matches) != 1:
        raise unknown_reward(name, names)
    return matches[0]


Asked, ask = Request, make_request  # their names in version 0.1


def slug(prompt: str) -> str:
    """Return a prompt as part of a file name: lower case letters and digits, at most 40."""
    plain = re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
    return plain[:LONGEST_NAME].rstrip("-") or ("other-letters" if prompt.strip() else "empty")


def given_prompts(options: Options) -> list[Prompt]:
    """Return the prompts of the flags --prompt and --prompts-file, in that order."""
    prompts = [Prompt(_checked(text, "argument --prompt")) for text in options.prompt]
    if options.prompts_file is not None:
        prompts += read_prompts(options.prompts_file)
    return prompts


def read_prompts(path: Path | str) -> tuple[Prompt, ...]:
    """Read a prompt file; lines without text are skipped.

    Args:
      path: JSON lines if it ends in one of JSON_LINES, a JSON list or JSON lines if in .json, else
        plain text; in UTF-8.

    Raises:
      FileNotFoundError: there is no such file. ValueError: an entry cannot be understood, with its
        number; or there is no prompt.
    """
    path, kind = Path(path), Path(path).suffix.lower()
    if not path.exists():
        raise FileNotFoundError(f"{path} must be a file of prompts; there is none.")
    if kind in OTHERS:
        what = "tables" if kind in TABLES else f"{kind} files"
        raise ValueError(
            f"{path} must be a file of prompts, one a line, or JSON; {what} are not read. Write "
            "the prompts to a file of lines."
        )
    lines = re.split(r"(?<=\n)|(?<=\r)(?!\n)", _read_text(path))
    if kind == ".json" and is_json_lines(*(lines + [""])[:2]):
        kind = JSON_LINES[0]
    elif kind not in (".json", *JSON_LINES) and is_json_lines(lines[0], lines[0]):
        raise ValueError(f"{path} holds JSON in its lines. Give it a name that ends in .jsonl.")
    elif kind not in (".json", *JSON_LINES) and _is_json_list("".join(lines)):
        raise ValueError(f"{path} holds a JSON list. Give it a name that ends in .json.")
    if kind == ".json":
        entries = parse_json("".join(lines), str(path), list, doubles=False)
        prompts = [_to_prompt(e, f"entry {n} of {path}") for n, e in enumerate(entries, 1)]
    else:
        numbered = [(n, line.strip()) for n, line in enumerate(lines, 1) if line.strip()]
        prompts = [
            _to_prompt(
                parse_json(line, f"line {n} of {path}", doubles=False), f"line {n} of {path}"
            )
            if kind in JSON_LINES
            else Prompt(line)
            for n, line in numbered
        ]
    if not prompts:
        raise ValueError(f"{path} must hold at least one prompt; it is empty.")
    return tuple(prompts)


def read_texts(path: Path | str) -> list[str]:
    """Read a prompt file whose prompts are all sampled alike; see `read_prompts`.

    Raises:
      ValueError: a prompt has targets or a seed of its own.
    """
    read = read_prompts(path)
    if special := [p for p in read if p.targets or p.negative_targets or p.seed is not None]:
        raise ValueError(
            f"{path} must hold prompts alone: targets and seed are set for all of them at once. "
            f"The prompt {special[0].text[:60]!r} has its own; remove them."
        )
    return [prompt.text for prompt in read]


def _is_json_list(text: str) -> bool:
    """Return whether a text is a JSON list of texts or of objects, as prompts stand in one."""
    try:
        entries = json.loads(text) if text.lstrip().startswith("[") else None
    except (ValueError, RecursionError):
        return False
    return bool(entries) and all(isinstance(entry, str | dict) for entry in entries)


def _read_text(path: Path) -> str:
    data = read_regular(path, MOST_BYTES)
    if data[:1] in (b"v", b"<") and (other := name_foreign(data)):
        raise ValueError(f"{path} must be a file of prompts; it is {other}.")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        reason = f"it is {name_foreign(data)}" if name_foreign(data) else f"{error}; save it so"
        raise ValueError(f"{path} must be UTF-8 text: {reason}.") from error
    if "\0" in text:
        raise ValueError(f"{path} must be text; it holds a zero character.")
    return text


def _to_prompt(entry: Any, name: str) -> Prompt:
    """Read an entry of a prompt file: a text, or an object; `name` is for messages."""
    if isinstance(entry, str):
        return Prompt(_checked(entry, name))
    check_fields(entry, _ENTRY, name)
    known = [key.removesuffix("?") for key in _ENTRY]
    for key in entry.keys() - set(known):
        if near := difflib.get_close_matches(key, known, 1, _LIKELY_MISTAKE):
            raise ValueError(f"{name}: unknown key {key!r}; did you mean {near[0]!r}?")
    given = {key: entry.get(key) or {} for key in ("targets", "negative_targets")}
    return Prompt(_checked(entry["prompt"], name), seed=entry.get("seed"), **given)


def _checked(text: str, name: str) -> str:
    """Return a text; ValueError where it is none that UTF-8 can hold."""
    if not encodable(text):
        raise ValueError(f"{name}: a prompt must be whole characters; it has half of one.")
    return text
