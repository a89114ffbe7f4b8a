"""Licences of the weights that rewards are made of, and what they say of commercial use.

Only what stands with the files themselves counts. A licence of the code beside them is no licence
of the weights: such files are "unknown" here, and a note says what is known. This is a help for
choosing rewards, not legal advice; read the licence of what you use.
"""

import dataclasses

UNKNOWN = "unknown"


@dataclasses.dataclass(frozen=True)
class Licence:
    """The licence of one file or repository of weights.

    weights: hub id, or hub id and file. name: of the licence. commercial: whether it allows
    commercial use, None where that is unknown. note: where this comes from, or what is known.
    """

    weights: str
    name: str
    commercial: bool | None
    note: str


_CLIP_L = Licence(
    "openai/clip-vit-large-patch14",
    UNKNOWN,
    None,
    "the code is MIT, the weights state no licence, and their model card calls deployed use out of "
    "scope",
)

# By name of the reward, all that it loads besides tokenizers.
LICENCES: dict[str, tuple[Licence, ...]] = {
    "clip": (Licence("jinaai/jina-clip-v2", "CC-BY-NC-4.0", False, "model card"),),
    "aesthetic": (
        _CLIP_L,
        Licence(
            "sac+logos+ava1-l14-linearMSE.pth",
            UNKNOWN,
            None,
            "its code repository is said to be Apache-2.0, which was not confirmed",
        ),
    ),
    "image_reward": (Licence("THUDM/ImageReward", "Apache-2.0", True, "model card"),),
    "pick_score": (
        Licence(
            "yuvalkirstain/PickScore_v1",
            UNKNOWN,
            None,
            "the hub states no licence; the code is said to be MIT",
        ),
    ),
    "hpsv2": (Licence("xswu/HPSv2", "Apache-2.0", True, "model card"),),
    "vqa": (
        Licence(
            "zhiqiulin/clip-flant5-xl, -xxl",
            "Apache-2.0",
            True,
            "model card; the file holds a tower of OpenAI's CLIP too",
        ),
    ),
    "sci_score": (Licence("Jialuo21/SciScore", "Apache-2.0", True, "model card"),),
    "openai_clip": (_CLIP_L,),
}


def why_not_commercial(name: str) -> str:
    """Say why a reward's weights are not known to allow commercial use, or return "".

    Args:
        name: of a reward, with or without its version; one that is not in LICENCES is unknown.
    """
    licences = LICENCES.get(name.partition("@")[0])
    if licences is None:
        return "the licence of its weights is unknown"
    for licence in licences:
        if licence.commercial is False:
            return f"{licence.name} of {licence.weights} forbids commercial use"
        if licence.commercial is None:
            return f"the licence of {licence.weights} is unknown: {licence.note}"
    return ""
