"""A preset: targets, negative targets and guidance of one network, with how they were found.

`preset.json` is small and can be shared. It belongs to the weights that it names: other weights
have other dials, and are refused.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from miro_jax.cli.exit import Unfit
from miro_jax.cli.stored_checkpoint import digest_of
from miro_jax.data.json_file import read_json
from miro_jax.data.storage.files import to_json
from miro_jax.models.targets import to_levels
from miro_jax.sample.settings import UNWRITTEN, Options, Settings
from miro_jax.sample.trained import Peeked, peek
from miro_jax.sample.usual import Usual

FORMAT = 1
_LEVELS = {str: (float, None)}
_SCHEMA = {
    "preset": int,
    "rewards": [str],
    "targets": _LEVELS,
    "negative_targets": _LEVELS,
    "guidance_scale": float,
    "found_on": {"checkpoint": str, "objective": str},
}


@dataclasses.dataclass(frozen=True)
class Preset:
    """How to ask one network.

    Attributes:
      rewards: conditioning rewards of the network, in order.
      targets, negative_targets: levels of some of them.
      guidance_scale: see `Settings`.
      found_on: `checkpoint` and `objective`, their identities; what else was fixed, of `Settings`
        too: the guidance scale there is the one that the search began with.
      confirmed: what it gains on fresh prompts and seeds, see `confirmation.compare`, and
        `candidate`: what was confirmed, None where the search preferred the defaults.
    """

    rewards: tuple[str, ...]
    targets: Mapping[str, float | None]
    negative_targets: Mapping[str, float | None]
    guidance_scale: float
    found_on: Mapping[str, Any]
    confirmed: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def to_json(self) -> bytes:
        """Return the content of `preset.json`."""
        return to_json({"preset": FORMAT, **dataclasses.asdict(self)})

    def over(self, usual: Usual) -> Usual:
        """Return the defaults of a checkpoint with the levels and settings of this preset."""
        settings = dataclasses.replace(usual.settings, **self.sampling())
        return Usual(dict(self.targets), dict(self.negative_targets), settings)

    def sampling(self) -> dict[str, Any]:
        """Return the fields of `Settings` that it was found with, and its guidance scale."""
        found = UNWRITTEN | dict(self.found_on)
        names = [field.name for field in dataclasses.fields(Settings) if field.name in found]
        return {name: found[name] for name in names} | {"guidance_scale": self.guidance_scale}

    def check_rewards(self, names: Sequence[str]) -> None:
        """Raise Unfit, a ValueError, unless a network has the rewards of this preset, in order."""
        if list(names) != list(self.rewards):
            raise Unfit(
                f"a preset must be of a network with the same rewards: this network has "
                f"{', '.join(names) or 'none'}; the preset is for "
                f"{', '.join(self.rewards) or 'none'}. Search one for this network."
            )

    def check_weights(self, checkpoint: str) -> None:
        """Raise Unfit, a ValueError, unless the weights are those of this preset.

        Args:
          checkpoint: as `trained.weights_name` names them.
        """
        wanted = self.found_on["checkpoint"]
        if digest_of(wanted) != digest_of(checkpoint):
            raise Unfit(
                f"a preset must be used with the weights that it was found on, {wanted}; got "
                f"{checkpoint}. Search one for this network, or pass the levels as targets."
            )


def read_defaults(options: Options) -> Peeked:
    """Look at the checkpoint that the flags of a command name, without its weights.

    Returns:
      what `trained.peek` does, sampled by the preset where --preset is given.

    Raises:
      FileNotFoundError, ValueError: see `peek` and `read_preset`; a flag of releases for a run.
    """
    facts = peek(options.checkpoint, options.variant, options.revision)
    for name in ("text_encoder", "vae", "revision") if facts.sample is not None else ():
        if (value := getattr(options, name)) is not None:
            raise ValueError(
                f"argument --{name.replace('_', '-')}: must be given for a release alone; "
                f"{options.checkpoint} is a run, got {value!r}."
            )
    if options.preset is not None:
        preset = read_preset(options.preset)
        preset.check_rewards(facts.reward_names)
        facts = facts._replace(usual=preset.over(facts.usual))
    return facts


def read_preset(path: Path | str) -> Preset:
    """Read a `preset.json`.

    Raises:
      TypeError: it is no path. FileNotFoundError: there is none. ValueError: it is no preset, or
        names a reward or a level that cannot be.
    """
    if not isinstance(path, str | Path):
        raise TypeError(f"preset must be a path or a Preset; got {path!r:.60}.")
    content = read_json(path, _SCHEMA)
    if content.pop("preset") != FORMAT:
        raise ValueError(f"{path} must be a preset of format {FORMAT}; a newer version wrote it.")
    names = tuple(content.pop("rewards"))
    known = {field.name for field in dataclasses.fields(Preset)}
    preset = Preset(names, **{key: value for key, value in content.items() if key in known})
    try:
        preset.over(Usual())
        for levels in (preset.targets, preset.negative_targets):
            to_levels(levels, 1, names, 1.0)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return preset
