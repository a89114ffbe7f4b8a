"""What an earlier evaluation of a checkpoint has measured, for a later one of some evaluators.

An evaluation of some evaluators takes the results of the others from earlier entries of
`evaluation.json`, where checkpoint, data and all settings that they depend on are the same.
"""

from collections.abc import Mapping, Sequence
from typing import Any

# Keys of `config.evaluate` that some evaluators alone depend on; on others all of them do.
_OF_SOME = {
    "evaluators": (),
    "beside": (),
    "levels": ("gallery", "dials", "conflict"),
    "images_per_level": ("dials", "conflict"),
    "images_per_prompt": ("geneval", "reward_scores"),
    "conflict_reward": ("conflict",),
}
_OF_LATER = ("weights", "model")  # not in entries of before
_NETWORK = ("step", "num_parameters", "rewards", "shapes", "training")


def earlier_results(
    entries: Sequence[Mapping[str, Any]], entry: Mapping[str, Any]
) -> dict[str, Any]:
    """Return name -> result of the evaluators that an entry lacks, the latest ones.

    Args:
      entries: of `evaluation.json`. entry: a new one.
    """
    found: dict[str, Any] = {}
    for other in reversed(entries):
        if not _same_network(entry, other):
            continue
        for name, result in other.get("results", {}).items():
            if name not in entry["results"] and _same_settings(name, entry, other):
                found.setdefault(name, result)
    return found


def same_prompts(entry: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two entries have the same list of prompts.

    Those of dials, whose number is a setting of its own, are left out where both entries have a
    digest of the others alone.
    """
    ours, theirs = ({**e.get("prompts", {})} for e in (entry, other))
    digests = [one.pop("texts_sha256", None) for one in (ours, theirs)]
    return ours == theirs if None in digests else digests[0] == digests[1]


def _same_network(entry: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two entries are of one checkpoint; those of before have no digest of it."""
    digests = {e["checkpoint"] for e in (entry, other) if "checkpoint" in e}
    return len(digests) < 2 and all(entry.get(key) == other.get(key) for key in _NETWORK)


def _same_settings(name: str, entry: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    own = [e["settings"].get("evaluate", {}) for e in (entry, other)]
    ours, theirs = (
        {key: v for key, v in one.items() if name in _OF_SOME.get(key, (name,))} for one in own
    )
    hows = [{**e["settings"].get("sample", {})} for e in (entry, other)]
    for how in hows:
        how.pop("batch_size", None)  # that of the evaluation counts
    both = [key for key in _OF_LATER if all(key in e["settings"] for e in (entry, other))]
    alike = all(entry["settings"][key] == other["settings"][key] for key in both)
    return ours == theirs and hows[0] == hows[1] and alike and same_prompts(entry, other)
