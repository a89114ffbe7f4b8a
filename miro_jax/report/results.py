"""What evaluators return: typed results, written to `evaluation.json` and read by the page.

The fields are the keys of that file, which stay: results of earlier versions are readable, keys
that a result does not know are ignored.
"""

import dataclasses
import types
from collections.abc import Mapping
from typing import (
    Any,
    ClassVar,
    NotRequired,
    Self,
    TypedDict,
    get_args,
    get_origin,
    get_type_hints,
    is_typeddict,
)

from miro_jax.data.json_file import check_fields
from miro_jax.report.statistics import Mean, Share

_RISING = 0.9  # rank correlation of a dial that rises
_ROUNDING = 1e-9  # ranks of five levels that make 0.9 give 0.8999999999999998


@dataclasses.dataclass(frozen=True)
class Result:
    """The result of the evaluator `evaluator`."""

    evaluator: ClassVar[str]

    def to_json(self) -> dict[str, Any]:
        """Return the fields as JSON values."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, values: Any, name: str = "") -> Self:
        """Undo `to_json`; ValueError, which begins with `name`, where the values are others."""
        hints, schema = get_type_hints(cls), {}
        for field in dataclasses.fields(cls):
            required = field.default is field.default_factory is dataclasses.MISSING
            schema[field.name + "?" * (not required)] = _schema(hints[field.name])
        check_fields(values, schema, name)
        known = {field.name for field in dataclasses.fields(cls)}
        return cls(**{name: value for name, value in values.items() if name in known})


def _schema(kind: Any) -> Any:
    """Return the schema of a type, see `data.json_file`."""
    of = [_schema(one) for one in get_args(kind)]
    if isinstance(kind, types.UnionType):
        return tuple(None if one is types.NoneType else one for one in of)
    if is_typeddict(kind):
        optional = kind.__optional_keys__
        return {n + "?" * (n in optional): _schema(x) for n, x in get_type_hints(kind).items()}
    if get_origin(kind) is list:
        return of
    return {str: of[1]} if get_origin(kind) is dict else kind


@dataclasses.dataclass(frozen=True)
class Gallery(Result):
    """Images of prompts at levels of all rewards.

    levels: empty for a network without rewards. num_images: in a file. files: [prompt][level],
    names in the folder of the evaluation. sha256: of each file, where it was recorded.
    """

    evaluator: ClassVar[str] = "gallery"
    prompts: list[str]
    levels: list[float]
    guidance_scale: float
    num_images: int
    files: list[list[str]]
    sha256: dict[str, str] = dataclasses.field(default_factory=dict)


class GenEvalRow(TypedDict):
    """One guidance scale. categories: name -> share of images, see `clustered.shares`."""

    guidance_scale: float
    categories: dict[str, Share]
    overall: Share  # without counts
    named_color: Share | None  # None without the category colors
    unit: NotRequired[str]  # of intervals; absent in old files, which take images as independent


@dataclasses.dataclass(frozen=True)
class GenEval(Result):
    """Shares of images that show what their prompt describes, by category."""

    evaluator: ClassVar[str] = "geneval"
    images_per_prompt: int
    rows: list[GenEvalRow]


class RewardRow(TypedDict):
    """One guidance scale. rewards: name -> `score` and `level`, a `Mean` each."""

    guidance_scale: float
    rewards: dict[str, dict[str, Mean]]


@dataclasses.dataclass(frozen=True)
class RewardScores(Result):
    """Mean rewards of images beside the training data's.

    num_images: of a row. training: reward -> mean and std.
    """

    evaluator: ClassVar[str] = "reward_scores"
    num_images: int
    rows: list[RewardRow]
    training: dict[str, dict[str, float]]

    @property
    def above_training(self) -> list[str]:
        """Rewards whose mean, with the default guidance, is above that of the training data."""
        row = self.rows[-1]["rewards"]
        return [n for n, t in self.training.items() if row[n]["score"]["mean"] > t["mean"]]


class Dial(TypedDict):
    """One requested reward over the levels [L].

    rank_of_means, rank_of_samples: Spearman of requested level against mean score and against all
    scores; None where undefined.
    """

    score: list[Mean]
    level: list[Mean]
    rank_of_means: float | None
    rank_of_samples: float | None


def rises(rank: float | None, low: float) -> bool:
    """Return whether a dial rises: by rank, and from lowest to highest level beyond chance.

    Args:
      rank: of levels and mean scores. low: of the interval of the rise.
    """
    return rank is not None and rank >= _RISING - _ROUNDING and low > 0


class Cross(TypedDict):
    """Changes of mean scores from the lowest to the highest level, [asked][measured]."""

    asked: list[str]
    measured: list[str]
    difference: list[list[float]]
    low: list[list[float]]
    high: list[list[float]]


@dataclasses.dataclass(frozen=True)
class Dials(Result):
    """Achieved against requested levels, a dial for each reward that the network knows.

    asked_levels: [L], requested. images_per_level: N of each dial.
    """

    evaluator: ClassVar[str] = "dials"
    asked_levels: list[float]
    images_per_level: int
    dials: dict[str, Dial]
    cross: Cross

    def rises(self, name: str) -> bool:
        """Return whether a dial rises, see `rises`."""
        cross = self.cross
        low = cross["low"][cross["asked"].index(name)][cross["measured"].index(name)]
        return rises(self.dials[name]["rank_of_means"], low)

    @property
    def rising(self) -> list[str]:
        """Names of the dials that rise."""
        return [name for name in self.dials if self.rises(name)]

    def reaching(self, training: Mapping[str, Mapping[str, float]]) -> list[str]:
        """Names of the rewards whose mean, requested at the highest level, is that of the training
        data or above.

        Args:
          training: reward -> `mean`, of those that are compared.
        """
        ends = {name: dial["score"][-1]["mean"] for name, dial in self.dials.items()}
        return [n for n, end in ends.items() if n in training and end >= training[n]["mean"]]


class Way(TypedDict):
    """One way of requesting the chased reward, over the levels [L]."""

    agreement: list[Mean]
    correct: list[Share]


@dataclasses.dataclass(frozen=True)
class Conflict(Result):
    """Agreement with the prompt against the requested level of one chased reward.

    agreement_of: rewards in the mean. others_asked: all others at their defaults;
    others_not_asked: all others missing. not_measured: why there is nothing else.
    """

    evaluator: ClassVar[str] = "conflict"
    chased: str = ""
    asked_levels: list[float] = dataclasses.field(default_factory=list)
    images_per_level: int = 0
    agreement_of: list[str] = dataclasses.field(default_factory=list)
    others_asked: Way | None = None
    others_not_asked: Way | None = None
    not_measured: str = ""
