"""The names of rewards, for `--help`, flags and targets: importing this module imports no jax.

A reward is named by a name of the table, an identity of one that exists in several versions,
`FILE.py:Class`, a class of your own, or `process:COMMAND`, a program of your own. `rewards.table`
builds them; a test holds both equal.
"""

import re
import shlex
from collections.abc import Sequence

# In the order of the released checkpoints.
RELEASED_REWARDS = ("clip", "aesthetic", "image_reward", "pick_score", "hpsv2", "vqa", "sci_score")
PUBLISHED_REWARDS = (*RELEASED_REWARDS, "openai_clip")
NEWER_REWARDS = ("ict", "hp", "cycle_reward")  # published since; MIRO does not use them
SHAPES_REWARDS = (
    "sharpness",
    "cleanliness",
    "beauty",
    "objects",
    "colors",
    "count",
    "position",
)
# Identities of rewards that exist in several versions; the first is that of the bare name.
VERSIONED_REWARDS = (
    "hpsv2@2.1",
    "hpsv2@2.0",
    "vqa@clip-flant5-xxl",
    "vqa@clip-flant5-xl",
    "cycle_reward@combo",
    "cycle_reward@t2i",
    "cycle_reward@i2t",
    "objects@shapes2",
    "objects@shapes1",
)
REWARD_NAMES = (*PUBLISHED_REWARDS, *NEWER_REWARDS, *SHAPES_REWARDS, *VERSIONED_REWARDS)
GROUPS = {"all": PUBLISHED_REWARDS, "newer": NEWER_REWARDS, "shapes": SHAPES_REWARDS}
HELP = (
    f"names with commas between, of {', '.join(REWARD_NAMES)}; all (the released seven and "
    f"openai_clip), newer ({', '.join(NEWER_REWARDS)}), shapes (those of the shapes world); "
    "FILE.py:Class, a class of your own; or process:COMMAND, a program of your own"
)
PROCESS = "process:"


def parse_names(text: str | Sequence[str]) -> tuple[str, ...]:
    """Return the names of a text with commas, or of a sequence, those of groups written out."""
    words = text.split(",") if isinstance(text, str) else text
    return tuple(name for word in words for name in GROUPS.get(word, (word,)))


def is_own(name: str) -> bool:
    """Return whether a name is that of a class of a Python file."""
    return split_own(name)[0].endswith(".py") and not is_process(name)


def split_own(name: str) -> tuple[str, str]:
    """Return the file and the class of `FILE.py:Class`; the file's path may hold colons."""
    path, ending, class_name = name.partition(".py:")
    return path + ending.removesuffix(":"), class_name


def is_process(name: str) -> bool:
    """Return whether a name is that of a program that scores in a process of its own."""
    return name.startswith(PROCESS)


def program_of(name: str) -> str:
    """Return the program of `process:COMMAND`: its first word that ends in .py, else the first."""
    text = name.removeprefix(PROCESS)
    try:
        words = shlex.split(text)
    except ValueError:  # an open quote, which `process.check_command` refuses
        words = text.split()
    return next((word for word in words if word.endswith(".py")), words[0] if words else "")


def short_name(name: str) -> str:
    """Return what targets, tables and pages call a reward.

    hpsv2@2.1 -> hpsv2; my_file.py:ImageSharpness -> image_sharpness; process:python a/HPSv3.py ->
    hpsv3.
    """
    if is_process(name):
        stem = program_of(name).rpartition("/")[2].partition(".")[0]
        return re.sub(r"\W+", "_", stem).lower()
    if is_own(name):
        return re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", split_own(name)[1]).lower()
    return name.partition("@")[0]
