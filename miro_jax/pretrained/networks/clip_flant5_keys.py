"""Published weights of CLIP-FlanT5: CLIP's vision tower, two linear maps and a whole T5.

Source: names of t2v-metrics' `CLIPT5ForConditionalGeneration`; weights zhiqiulin/clip-flant5-*.
"""

import dataclasses
import re
from collections.abc import Mapping
from typing import Any, Unpack

from miro_jax.pretrained.networks import clip_keys, t5_keys
from miro_jax.pretrained.networks.clip_flant5 import ClipFlanT5, ClipFlanT5Config
from miro_jax.pretrained.weights import hf
from miro_jax.pretrained.weights.convert import Layout, Network, Placing, below, table
from miro_jax.pretrained.weights.tensors import Tensor
from miro_jax.pretrained.weights.tokenizer import check_vocabulary

VISION_KEY = "vision_tower.vision_tower.vision_model"
TABLE = table(
    f"""
    {VISION_KEY}        vision                  body
    mm_projector.{{0,2}}  projector/{{hidden,out}}
    """,
    body=clip_keys.VISION_BODY,
) + below("", "t5", t5_keys.TABLE)
REQUIRED = {"mm_projector_type": "mlp2x_gelu", "mm_vision_select_feature": "patch"}


def parse_config(
    config: Mapping[str, Any], vision: Mapping[str, Any], classes: int
) -> ClipFlanT5Config:
    """Take the sizes from two files `config.json`.

    Args:
      config: of the model.
      vision: of the CLIP model whose vision tower it has.
      classes: tokens that the tokenizer has; the weights may have rows beyond them, which were
        never trained.
    """
    hf.require_options(config, REQUIRED, "config.json")
    sizes = clip_keys.vision_config(vision, projection=False)
    layer = config.get("mm_vision_select_layer", -2)
    used = sizes.layers + 1 + layer  # blocks that are run
    if not 1 <= used <= sizes.layers:
        raise ValueError(
            f"config.json must have mm_vision_select_layer in [{-sizes.layers}, -1]; got {layer}."
        )
    language = t5_keys.parse_config(config)
    check_vocabulary(classes, language.vocabulary, "the T5")
    return ClipFlanT5Config(dataclasses.replace(sizes, layers=used), language, classes)


def load(
    tensors: Mapping[str, Tensor], config: ClipFlanT5Config, **placing: Unpack[Placing]
) -> Network:
    """Load a published file; what stands behind the vision tower's last block used is ignored."""
    vision = re.escape(VISION_KEY)
    matches = (re.match(rf"{vision}\.encoder\.layers\.(\d+)\.", key) for key in tensors)
    numbers = {block[1] for block in matches if block and int(block[1]) >= config.vision.layers}
    unused = [
        rf"{vision}\.post_layernorm\..*",
        rf"{vision}\.encoder\.layers\.({'|'.join(sorted(numbers))})\..*",
        r"(.*\.)?position_ids",
        t5_keys.IGNORED,
    ]
    layout = Layout(ClipFlanT5, TABLE, "|".join(unused), t5_keys.SMALL)
    return layout.load(t5_keys.merge_aliases(tensors), config, **placing)
