"""The rewards made of a CLIP against transformers and PyTorch, interleaved in one process.

    python benchmarks/clip_score.py                        # all cases of docs/benchmarks.md
    python benchmarks/clip_score.py --cases four --batch 4

Cases: `image`, CLIP-H's image tower; `pick`, a whole call of PickScore, from bytes and captions to
scores; `four`, PickScore, HPSv2, SciScore and the aesthetic score of one batch for two sets of
captions, ours by `score_all`, theirs as MIRO's annotation calls them: PickScore and HPSv2 read the
pictures again for the second caption. Weights are random; in `four` one CLIP-H stands for three,
each of which reads the pictures for itself. Reported: medians, the median of the ratios (above 1:
ours is quicker) and the largest relative difference of the results.
"""

import argparse
import dataclasses
import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))
os.environ.setdefault("JAX_PLATFORMS", "cpu")

import numpy as np
import torch
from parity_clip import HUGE, LARGE, call, opened, random_clip
from PIL import Image

from miro_jax.pretrained.networks import clip_keys
from miro_jax.pretrained.networks.tower import Tower
from miro_jax.pretrained.weights import hub, tokenizer
from miro_jax.pretrained.weights.tensors import write_safetensors
from miro_jax.rewards import base, clip_family
from miro_jax.rewards.aesthetic import Aesthetic
from miro_jax.rewards.resize import BicubicCrop, FloatBicubicCrop
from tests.oracles import clip_rewards, clip_tokens, resize

SIZES = ((480, 640), (512, 512), (333, 500), (768, 512))  # height, width
WORDS = "a painting of two red foxes and an old lighthouse under heavy snow at dawn in oil on wood"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--batch", type=int, default=16, help="pictures (default: 16)")
    parser.add_argument("--repeats", type=int, default=3, help="timed runs of each side")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="of PyTorch")
    parser.add_argument("--layers", type=int, help="fewer layers in each tower, to try the script")
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    rng = np.random.default_rng(0)
    shapes = [SIZES[i % len(SIZES)] for i in range(flags.batch)]
    images = [rng.integers(0, 256, (*shape, 3), dtype=np.uint8) for shape in shapes]
    words = WORDS.split()
    captions = [
        [" ".join(rng.permutation(words)[: rng.integers(6, len(words))]) for _ in images]
        for _ in range(2)
    ]
    huge = Pair(HUGE, flags.layers)
    for name in flags.cases:
        ours, theirs = CASES[name](huge, images, captions, flags.layers)
        report(name, flags.batch, ours, theirs, flags.repeats)


class Pair:
    """One CLIP on both sides."""

    def __init__(self, config: dict, layers: int | None):
        parts = {k: dict(config[k]) for k in ("vision_config", "text_config")}
        for part in parts.values():
            part["num_hidden_layers"] = layers or part["num_hidden_layers"]
        config = config | parts
        self.theirs = random_clip(config, 0)
        tensors = opened(self.theirs)
        sizes = clip_keys.vision_config(config)
        vision = Tower(clip_keys.load_vision(tensors, sizes))
        self.vision = clip_family.Vision(vision, "clip", sizes)
        with tempfile.TemporaryDirectory() as folder:
            clip_tokens.write_tokenizer_json(Path(folder))
            found = hub.open(folder)
            tokenizers = (
                tokenizer.hugging_face_tokenizer(found),
                tokenizer.openai_tokenizer(found),
            )
        tower = Tower(clip_keys.load_text(tensors, clip_keys.text_config(config)))
        factor = clip_keys.logit_scale(tensors)
        self.texts = [clip_family.Text(tower, t, 77, factor) for t in tokenizers]

    def reward(self, name: str, crop, text: clip_family.Text, factor: float):
        """Make one of our rewards, which shares its features with none."""
        vision = clip_family.Vision(self.vision.tower, name, self.vision.config)
        card = dataclasses.replace(clip_family.CARDS[0], name=name, stored_divisor=1)
        return clip_family.ClipReward(card, vision, text, crop, factor)

    @torch.no_grad()
    def image_features(self, pixels: list[np.ndarray]) -> torch.Tensor:
        """Read pictures in [0, 255], cropped, into features of length 1."""
        x = (np.stack(pixels) / 255.0 - clip_rewards.MEAN) / clip_rewards.STD
        x = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2), np.float32))
        x = self.theirs.get_image_features(x).pooler_output
        return x / x.norm(dim=-1, keepdim=True)

    @torch.no_grad()
    def cosines(self, image_features: torch.Tensor, ids, mask=None) -> np.ndarray:
        """Compare features with captions."""
        mask = None if mask is None else torch.from_numpy(mask)
        out = self.theirs.get_text_features(torch.from_numpy(ids), attention_mask=mask)
        text = out.pooler_output / out.pooler_output.norm(dim=-1, keepdim=True)
        return (image_features * text).sum(dim=-1).numpy()

    def scaled(self, image_features: torch.Tensor, captions: list[str]) -> np.ndarray:
        """Score as PickScore and SciScore do."""
        tokens = clip_tokens.hugging_face()(
            captions, padding=True, truncation=True, max_length=77, return_tensors="np"
        )
        cosines = self.cosines(image_features, tokens["input_ids"], tokens["attention_mask"])
        return float(self.theirs.logit_scale.detach().exp()) * cosines


def image_case(huge: Pair, images, captions, layers):
    """CLIP-H's image tower on normalised pictures."""
    x = np.random.default_rng(0).normal(size=(len(images), 224, 224, 3)).astype(np.float32)
    pixels = torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))

    @torch.no_grad()
    def theirs():
        return huge.theirs.get_image_features(pixels).pooler_output.numpy()

    return lambda: huge.vision.tower.run(call, x), theirs


def pick_case(huge: Pair, images, captions, layers):
    """A whole call of PickScore."""
    reward = huge.reward("pick_score", BicubicCrop(224, "floor"), *_scaled(huge))

    def theirs():
        pixels = [resize.hugging_face(Image.fromarray(image), 224) for image in images]
        return huge.scaled(huge.image_features(pixels), captions[0])

    return lambda: reward.score(images, captions[0]), theirs


def four_case(huge: Pair, images, captions, layers):
    """Four rewards for two sets of captions."""
    large = Pair(LARGE, layers)
    head = clip_rewards.make_head(768)
    rewards = [
        make_aesthetic(large, head),
        huge.reward("pick_score", BicubicCrop(224, "floor"), *_scaled(huge)),
        huge.reward("hpsv2", FloatBicubicCrop(224), huge.texts[1], 1.0),
        huge.reward("sci_score", BicubicCrop(224, "floor"), *_scaled(huge)),
    ]
    sets = [{"caption": captions[0]}, {"long": captions[1], "short": captions[1]}]

    def ours():
        return np.concatenate(base.score_all(rewards, images, sets))

    def theirs():
        pictures = [Image.fromarray(image) for image in images]
        cropped = large.image_features([resize.openai(p, 224) for p in pictures])
        aesthetic = clip_rewards.apply_head(cropped, head) / 10
        columns = [[aesthetic] + [None] * 3 for _ in captions]
        for row, texts in zip(columns, captions, strict=True):
            pixels = [resize.hugging_face(p, 224) for p in pictures]
            row[1] = huge.scaled(huge.image_features(pixels), texts)
            floats = [255 * resize.hpsv2(p, 224) for p in pictures]
            row[2] = huge.cosines(huge.image_features(floats), clip_tokens.simple_ids(texts))
        features = huge.image_features([resize.hugging_face(p, 224) for p in pictures])
        for row, texts in zip(columns, captions, strict=True):
            row[3] = huge.scaled(features, texts)
        return np.concatenate([np.stack(row, axis=1) for row in columns])

    return ours, theirs


def make_aesthetic(large: Pair, head: dict[str, np.ndarray]) -> Aesthetic:
    """Load our aesthetic score from files, of the large CLIP of the pair."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder)
        config = large.theirs.config.to_dict()
        (path / "config.json").write_text(json.dumps(config, default=str))
        arrays = {k: v.numpy() for k, v in large.theirs.state_dict().items()}
        write_safetensors(path / "model.safetensors", arrays)
        write_safetensors(path / "sac+logos+ava1-l14-linearMSE.safetensors", head)
        return Aesthetic(folder)


def report(name: str, batch: int, ours, theirs, repeats: int) -> None:
    """Time both sides in turn and print one line."""
    found, expected = ours(), theirs()  # compiles
    error = np.abs(found - expected).max() / np.abs(expected).max()
    times = ([], [])
    for _ in range(repeats):
        for side, function in zip(times, (ours, theirs), strict=True):
            start = time.perf_counter()
            function()
            side.append(time.perf_counter() - start)
    ratio = statistics.median(b / a for a, b in zip(*times, strict=True))
    first, second = (statistics.median(side) for side in times)
    print(
        f"{name}, {batch} pictures: ours {first:.2f} s, theirs {second:.2f} s, ratio {ratio:.2f} "
        f"({min(times[1]) / min(times[0]):.2f} of the shortest), difference {error:.1e}",
        flush=True,
    )


def _scaled(huge: Pair) -> tuple[clip_family.Text, float]:
    return huge.texts[0], huge.texts[0].factor


CASES = {"image": image_case, "pick": pick_case, "four": four_case}

if __name__ == "__main__":
    main()
