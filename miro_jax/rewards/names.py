"""The names of rewards, for `--help` and configs: importing this module imports nothing else.

`rewards.table` says how each is built; a test holds both equal.
"""

# In the order of the released checkpoints.
RELEASED_REWARDS = ("clip", "aesthetic", "image_reward", "pick_score", "hpsv2", "vqa", "sci_score")
PUBLISHED_REWARDS = (*RELEASED_REWARDS, "openai_clip")
SHAPES_REWARDS = (
    "sharpness",
    "cleanliness",
    "beauty",
    "objects",
    "colors",
    "count",
    "position",
)
# Identities of rewards that exist in several versions; the bare name is the first one of its kind.
VERSIONED_REWARDS = ("hpsv2@2.1", "hpsv2@2.0", "vqa@clip-flant5-xxl", "vqa@clip-flant5-xl")
REWARD_NAMES = (*PUBLISHED_REWARDS, *SHAPES_REWARDS, *VERSIONED_REWARDS)
