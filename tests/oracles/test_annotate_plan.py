"""What the plan of an annotation reports of weights that are there."""

import pytest

from miro_jax import annotate
from miro_jax.annotate import estimate
from miro_jax.annotate.models import find_card
from miro_jax.annotate.plan import plan
from miro_jax.data.shapes import world
from tests.oracles import published

pytestmark = pytest.mark.slow

SEVEN = ("clip", "aesthetic", "image_reward", "pick_score", "hpsv2", "vqa", "sci_score")


def test_parameters_are_counted_in_the_weights_that_are_there(tmp_path):
    weights = published.make(tmp_path / "weights")
    world.write_shards(tmp_path / "source", 60, 24, 20)
    assert find_card("vqa").count_parameters("zhiqiulin/clip-flant5-xxl") is None
    whole = find_card("pick_score").count_parameters(weights["pick_score"])
    vision = find_card("aesthetic").count_parameters(weights["aesthetic"])
    assert 0 < vision < whole
    settings = annotate.Settings(
        source=f"tar:{tmp_path}/source/*.tar",
        out=tmp_path / "out",
        rewards=SEVEN,
        image_encoder={"name": "sdxl_vae", "size": 256},
        caption_encoder={"name": "flan_t5", "width": 2048, "max_tokens": 256},
        dtype="bfloat16",
        plan=True,
        weights={name: weights[name] for name in SEVEN},
    )
    text = estimate.describe(plan(settings))
    assert text.count("as published") == 2  # the encoders are the authors' own
    assert "fetched from the hub at the start: stabilityai/sdxl-vae, google/flan-t5-xl" in text
    assert f"rewards: pick_score            {whole / 1e6:9,.1f} M parameters:" in text
