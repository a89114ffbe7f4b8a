"""Compare jina-clip-v2's towers at their published size with other code, random weights, float32.

    python -m benchmarks.parity_jina --tower=vision --rows=1
    python -m benchmarks.parity_jina --tower=text --rows=2 --length=64

prints the largest differences relative to the largest values, and times. Pictures are compared with
`timm.models.eva.Eva` (timm needs torchvision only to be imported; without it, stand-ins are put in
its place while that happens), text with transformers. Vision needs about 4 GB of memory, text 9 GB.
Nothing is downloaded.
"""

import argparse
import contextlib
import enum
import importlib.util
import sys
import time
import types

import jax
import numpy as np
import torch

from miro_jax.pretrained.networks import eva02, eva02_keys, xlm_roberta, xlm_roberta_keys
from miro_jax.pretrained.networks.tower import Tower
from miro_jax.pretrained.weights.lora import merge_lora
from miro_jax.pretrained.weights.tensors import from_arrays
from tests.oracles import jina

VISION = {
    "width": 1024,
    "layers": 24,
    "head_width": 64,
    "image_size": 512,
    "patch_size": 14,
    "mlp_ratio": 2.6667,
    "pt_hw_seq_len": 16,
    "intp_freq": True,
}
TEXT = {"vocab_size": 250002, "rotary_emb_base": 20000.0, "lora_alpha": jina.ALPHA, "lora_rank": 4}
STANDINS = (
    "torchvision torchvision.transforms torchvision.transforms.functional torchvision.ops "
    "torchvision.ops.misc torchvision.datasets torchvision.datasets.folder torchvision.models "
    "torchvision.models.feature_extraction"
).split()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tower", choices=("vision", "text"), default="vision")
    parser.add_argument("--rows", type=int, default=1, help="pictures or captions (default: 1)")
    parser.add_argument("--length", type=int, default=64, help="tokens (default: 64)")
    parser.add_argument("--seed", type=int, default=0)
    flags = parser.parse_args()
    rng = np.random.default_rng(flags.seed)
    with jax.default_matmul_precision("highest"):
        line = vision(flags, rng) if flags.tower == "vision" else text(flags, rng)
    print(f"jina-clip-v2, {flags.tower}, {flags.rows} rows: {line}")


def vision(flags, rng) -> str:
    images = rng.normal(size=(flags.rows, 512, 512, 3)).astype(np.float32)
    reference = jina.vision(VISION, flags.seed)
    expected, torch_seconds = timed(lambda: timm_features(reference, images))
    written_out = reference.features(images)
    tensors = from_arrays(reference.arrays())
    tower = Tower(eva02_keys.load(tensors, eva02_keys.parse_config(VISION)))
    tower.run(eva02.VisionTower.__call__, images)
    found, seconds = timed(lambda: tower.run(eva02.VisionTower.__call__, images))
    return (
        f"relative difference to timm {error(found, expected):.1e} (the tests' reference to timm: "
        f"{error(written_out, expected):.1e}); jax {seconds:.1f} s, torch {torch_seconds:.1f} s"
    )


@torch.no_grad()
def timm_features(reference: jina.Vision, images: np.ndarray) -> np.ndarray:
    """Read pictures by timm's EVA-02 with the reference's weights."""
    with standins():
        from timm.models.eva import Eva
    c = reference.config
    model = Eva(
        img_size=c["image_size"],
        patch_size=c["patch_size"],
        num_classes=0,
        global_pool="token",
        embed_dim=c["width"],
        depth=c["layers"],
        num_heads=reference.heads,
        qkv_fused=False,
        mlp_ratio=c["mlp_ratio"],
        swiglu_mlp=True,
        scale_mlp=True,
        scale_attn_inner=True,
        use_rot_pos_emb=True,
        ref_feat_shape=(c["pt_hw_seq_len"],) * 2,
    ).eval()
    renamed = {}
    for key, value in reference.weights.items():
        for old, new in (
            ("q_bias", "q_proj.bias"),
            ("v_bias", "v_proj.bias"),
            ("inner_attn_ln", "norm"),
            ("ffn_ln", "norm"),
            ("mlp.w1", "mlp.fc1_g"),
            ("mlp.w2", "mlp.fc1_x"),
            ("mlp.w3", "mlp.fc2"),
        ):
            key = key.replace(old, new)
        renamed[key] = value
    model.load_state_dict(renamed)
    return model(torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))).numpy()


@contextlib.contextmanager
def standins():
    """Let torchvision be imported while timm is; nothing of it is used."""
    if importlib.util.find_spec("torchvision"):
        yield
        return

    class Standin(types.ModuleType):
        __path__ = ()

        def __getattr__(self, name):
            if name.startswith("__"):
                raise AttributeError(name)
            return type(name, (), {})

    modes = "NEAREST BILINEAR BICUBIC BOX HAMMING LANCZOS".split()
    for name in STANDINS:
        sys.modules[name] = module = Standin(name)
        module.InterpolationMode = enum.Enum("InterpolationMode", {m: m.lower() for m in modes})
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
    yield
    for name in STANDINS:
        del sys.modules[name]


def text(flags, rng) -> str:
    ids = rng.integers(3, TEXT["vocab_size"], (flags.rows, flags.length)).astype(np.int32)
    lengths = np.linspace(flags.length, flags.length // 2, flags.rows).astype(int)
    ids = np.where(np.arange(flags.length)[None] < lengths[:, None], ids, 1)
    reference = jina.text(TEXT, flags.seed)
    expected, torch_seconds = timed(lambda: reference.features(ids))
    arrays = reference.arrays()
    tensors = merge_lora(from_arrays(arrays), jina.ALPHA / jina.RANK)
    config = xlm_roberta_keys.parse_config({"hf_model_config_kwargs": TEXT})
    tower = Tower(xlm_roberta_keys.load(tensors, config))
    tower.run(xlm_roberta.TextTower.__call__, ids)
    found, seconds = timed(lambda: tower.run(xlm_roberta.TextTower.__call__, ids))
    return (
        f"{flags.length} tokens: relative difference {error(found, expected):.1e}; "
        f"jax {seconds:.1f} s, torch {torch_seconds:.1f} s"
    )


def error(found: np.ndarray, expected: np.ndarray) -> float:
    return float(np.abs(found - expected).max() / np.abs(expected).max())


def timed(function):
    start = time.perf_counter()
    return function(), time.perf_counter() - start


if __name__ == "__main__":
    main()
