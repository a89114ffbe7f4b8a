"""Compare CLIP-FlanT5 at a published size with transformers' parts, in float32, random weights.

    python benchmarks/parity_vqa.py --size=large --rows=2 --length=96

The vision tower is CLIP-L/14 at 336 pixels, all 24 blocks stored and 23 run, its 576 tokens among
those of a prompt; sizes are those of FLAN-T5. It prints the largest difference of vision tokens
relative to the largest, of log-probabilities and of scores, and the time of each. Nothing is
downloaded. `large` needs about 12 GB of memory, xl about 28.
"""

import argparse
import time

import jax
import numpy as np
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, T5Config, T5ForConditionalGeneration

from miro_jax.pretrained.networks import clip_flant5, clip_flant5_keys
from miro_jax.pretrained.networks.tower import Tower
from miro_jax.pretrained.weights.tensors import Tensor

SIZES = {  # width, MLP width, blocks of each stack, heads; a head is 64 wide
    "small": (512, 1024, 8, 6),
    "base": (768, 2048, 12, 12),
    "large": (1024, 2816, 24, 16),
    "xl": (2048, 5120, 24, 32),
}
VISION = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
}
CLASSES = 32100
LABELS = (2163, 1)  # Yes, end


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="large")
    parser.add_argument("--rows", type=int, default=2, help="pairs (default: 2)")
    parser.add_argument("--length", type=int, default=96, help="tokens of text (default: 96)")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    torch.manual_seed(flags.seed)
    language, vision, projector = build(*SIZES[flags.size])
    config = language.config.to_dict() | {"tie_word_embeddings": False}
    sizes = clip_flant5_keys.parse_config(config, {"vision_config": VISION}, CLASSES)
    found = {
        key: value for key, value in language.state_dict().items() if "embed_tokens" not in key
    }
    for prefix, module in ((clip_flant5_keys.VISION_KEY, vision), ("mm_projector", projector)):
        found |= {f"{prefix}.{key}": value for key, value in module.state_dict().items()}
    tensors = {
        key: Tensor(tuple(value.shape), np.dtype(np.float32), value.numpy)
        for key, value in found.items()
    }
    rng = np.random.default_rng(flags.seed)
    images = rng.integers(0, 256, (flags.rows, 336, 336, 3), dtype=np.uint8)
    before = np.tile(rng.integers(3, CLASSES, 33).astype(np.int32), (flags.rows, 1))
    after = rng.integers(3, CLASSES, (flags.rows, flags.length - 33)).astype(np.int32)
    lengths = np.linspace(after.shape[1], after.shape[1] // 2, flags.rows).astype(int)
    mask = np.arange(after.shape[1])[None] < lengths[:, None]
    labels = np.tile(np.array(LABELS, np.int32), (flags.rows, 1))

    with jax.default_matmul_precision("highest"):
        tower = Tower(clip_flant5_keys.load(tensors, sizes))

        def ours():
            tokens = tower.run(clip_flant5.ClipFlanT5.read, images)
            inputs = (tokens, before, after, mask, labels)
            return tokens, tower.run(clip_flant5.ClipFlanT5.answer, *inputs)

        (tokens, likely), first, again = timed(ours)

    def theirs():
        pixels = torch.from_numpy(normalise(images))
        states = vision(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        parts = [language.shared(torch.from_numpy(ids).long()) for ids in (before, after)]
        shown = np.ones((flags.rows, 33 + states.shape[1]), bool)
        logits = language(
            inputs_embeds=torch.cat([parts[0], projector(states), parts[1]], dim=1),
            attention_mask=torch.from_numpy(np.concatenate([shown, mask], axis=1)).long(),
            labels=torch.from_numpy(labels).long(),
        ).logits[..., :CLASSES]
        return states.numpy(), torch.log_softmax(logits, -1)[:, range(2), list(LABELS)].numpy()

    with torch.no_grad():
        (states, expected), _, torch_again = timed(theirs)
    scores, expected_scores = (np.exp(x.mean(axis=1)) for x in (likely, expected))
    print(
        f"clip-flant5-{flags.size}: {sum(v.numel() for v in found.values()) / 1e6:.1f} M "
        f"parameters, {flags.rows} pairs of {576 + flags.length} tokens: vision tokens "
        f"{np.abs(tokens - states).max() / np.abs(states).max():.1e} relative, log-probabilities "
        f"{np.abs(likely - expected).max():.1e} of {np.abs(expected).max():.1f}, scores "
        f"{np.abs(scores / expected_scores - 1).max():.1e} relative; jax {again:.2f} s (first call "
        f"{first:.1f} s), torch {torch_again:.2f} s"
    )


def build(width: int, mlp_width: int, blocks: int, heads: int):
    """Make the three parts, norms and biases off their start values."""
    config = T5Config(
        vocab_size=CLASSES,
        d_model=width,
        d_ff=mlp_width,
        num_layers=blocks,
        num_heads=heads,
        d_kv=64,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        decoder_start_token_id=0,
    )
    language = T5ForConditionalGeneration(config).eval()
    # transformers 5 ties the head to the embedding whatever the config says.
    language.lm_head.weight = torch.nn.Parameter(torch.randn(CLASSES, width) * width**-0.5)
    vision = CLIPVisionModel(CLIPVisionConfig(hidden_act="quick_gelu", **VISION)).eval()
    projector = torch.nn.Sequential(
        torch.nn.Linear(VISION["hidden_size"], width),
        torch.nn.GELU(),
        torch.nn.Linear(width, width),
    )
    with torch.no_grad():
        for module in (language, vision, projector):
            for parameter in module.parameters():
                if parameter.ndim == 1:
                    parameter.add_(0.1 * torch.randn_like(parameter))
    return language, vision, projector


def normalise(images: np.ndarray) -> np.ndarray:
    """Bring pictures [B, H, W, 3] uint8 on CLIP's scale, [B, 3, H, W] float32."""
    mean = np.array([0.48145466, 0.4578275, 0.40821073], np.float32)
    std = np.array([0.26862954, 0.26130258, 0.27577711], np.float32)
    x = (images.astype(np.float32) / 255 - mean) / std
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def timed(function):
    """Call twice; return the result and both times in seconds."""
    times = []
    for _ in range(2):
        start = time.perf_counter()
        result = function()
        times.append(time.perf_counter() - start)
    return result, *times


if __name__ == "__main__":
    main()
