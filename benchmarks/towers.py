"""Images or captions per second of the pretrained networks, beside transformers and diffusers.

    python benchmarks/towers.py --theirs                       # all, on a GPU, bfloat16
    python benchmarks/towers.py --only clip_h t5_xl --theirs
    python benchmarks/towers.py --tiny --theirs                # to try it

Published sizes, random weights. Ours run as annotation runs them: residual streams in float32,
images as uint8; theirs in bfloat16 altogether, with PyTorch's fused attention, eager.
"""

import argparse
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).parent.parent))

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from benchmarks import timing, tried
from miro_jax.models import compiling, sharding
from miro_jax.pretrained.networks import blip, clip, t5, vae


class Work(NamedTuple):
    """A tower at work.

    Attributes:
      build: nnx.Rngs -> our module. function: (module, *arrays) -> result.
      arrays: inputs. gflop: of a row.
      theirs: torch -> (make the module, module -> result).
    """

    build: Callable
    function: Callable
    arrays: tuple
    gflop: float
    theirs: Callable | None


BF16 = {"dtype": jnp.bfloat16}


def clip_work(width, layers, heads, mlp, activation, projection, gflop, args):
    """CLIP's image tower; gflop: of an image."""
    if args.tiny:
        width, layers, heads, mlp, projection = 32, 2, 2, 64, 16
    side, rows = (28, 2) if args.tiny else (224, args.batch)
    config = clip.VisionConfig(
        width=width,
        layers=layers,
        heads=heads,
        mlp_width=mlp,
        activation=activation,
        epsilon=1e-5,
        image_size=side,
        patch_size=14,
        projection=projection,
    )

    def theirs(torch):
        from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

        given = CLIPVisionConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=mlp,
            hidden_act=activation,
            projection_dim=projection,
            image_size=side,
            patch_size=14,
            attn_implementation="sdpa",
        )
        x = torch.randn(rows, 3, side, side)
        return CLIPVisionModelWithProjection(given), (x,), lambda m, x: m(x)[0]

    images = np.random.default_rng(0).integers(0, 256, (rows, side, side, 3), dtype=np.uint8)
    see = lambda module, images: clip.normed(module(clip.normalize(images)))  # noqa: E731
    build = lambda rngs: clip.VisionTower(config, rngs=rngs, **BF16)  # noqa: E731
    return Work(build, see, (images,), gflop, theirs)


def blip_work(args):
    """BLIP-L's image tower, of ImageReward."""
    width, layers, heads, mlp = (32, 1, 2, 64) if args.tiny else (1024, 24, 16, 4096)
    side, rows = (32, 2) if args.tiny else (224, args.batch)
    config = blip.VisionConfig(
        width=width,
        layers=layers,
        heads=heads,
        mlp_width=mlp,
        activation="gelu",
        epsilon=1e-6,
        image_size=side,
        patch_size=16,
    )

    def theirs(torch):
        from transformers import BlipVisionConfig, BlipVisionModel

        given = BlipVisionConfig(
            hidden_size=width,
            num_hidden_layers=layers,
            num_attention_heads=heads,
            intermediate_size=mlp,
            image_size=side,
            patch_size=16,
        )
        return BlipVisionModel(given), (torch.randn(rows, 3, side, side),), lambda m, x: m(x)[0]

    images = np.random.default_rng(0).integers(0, 256, (rows, side, side, 3), dtype=np.uint8)
    see = lambda module, images: module(clip.normalize(images))  # noqa: E731
    build = lambda rngs: blip.VisionTower(config, rngs=rngs, **BF16)  # noqa: E731
    return Work(build, see, (images,), 123.0, theirs)


def t5_work(args):
    """FLAN-T5-XL's encoder, 77 tokens."""
    sizes = (32, 2, 16, 64, 1, 99) if args.tiny else (2048, 32, 64, 5120, 24, 32128)
    width, heads, head_width, mlp, blocks, vocabulary = sizes
    rows = 2 if args.tiny else 64
    config = t5.T5Config(width, heads, head_width, mlp, blocks, blocks, vocabulary, 32, 128, 1e-6)

    def theirs(torch):
        from transformers import T5Config, T5EncoderModel

        given = T5Config(
            d_model=width,
            d_kv=head_width,
            d_ff=mlp,
            num_layers=blocks,
            num_heads=heads,
            vocab_size=vocabulary,
            feed_forward_proj="gated-gelu",
            dropout_rate=0.0,
        )
        ids = torch.randint(3, vocabulary, (rows, 77))
        call = lambda m, ids, mask: m(input_ids=ids, attention_mask=mask)[0]  # noqa: E731
        return T5EncoderModel(given), (ids, torch.ones_like(ids)), call

    ids = np.random.default_rng(0).integers(3, vocabulary, (rows, 77)).astype(np.int32)
    encode = lambda module, ids, mask: module(ids, mask).astype(jnp.float16)  # noqa: E731
    build = lambda rngs: t5.T5Encoder(config, rngs=rngs, **BF16)  # noqa: E731
    return Work(build, encode, (ids, np.ones(ids.shape, bool)), 180.0, theirs)


def vae_work(part, gflop, args):
    """SDXL's VAE at 256 pixels: `part` is encode or decode."""
    channels = (32, 32) if args.tiny else (128, 256, 512, 512)
    layers, groups = (1, 8) if args.tiny else (2, 32)
    side, rows = (16, 2) if args.tiny else (256, 16)
    config = vae.VAEConfig(3, 3, 4, channels, layers, groups)
    small = side // config.factor
    rng = np.random.default_rng(0)

    def theirs(torch):
        from diffusers import AutoencoderKL

        module = AutoencoderKL(
            block_out_channels=channels,
            layers_per_block=layers,
            latent_channels=4,
            norm_num_groups=groups,
            down_block_types=["DownEncoderBlock2D"] * len(channels),
            up_block_types=["UpDecoderBlock2D"] * len(channels),
        ).to(memory_format=torch.channels_last)
        if part == "encode":
            return (
                module,
                (torch.randn(rows, 3, side, side),),
                lambda m, x: m.encode(x).latent_dist.mean,
            )
        return module, (torch.randn(rows, 4, small, small),), lambda m, z: m.decode(z).sample

    if part == "encode":
        images = rng.integers(0, 256, (rows, side, side, 3), dtype=np.uint8)
        see = lambda module, x: module(x.astype(jnp.float32) / 127.5 - 1)  # noqa: E731
        build = lambda rngs: vae.Encoder(config, rngs=rngs, **BF16)  # noqa: E731
        return Work(build, see, (images,), gflop, theirs)
    latents = rng.normal(size=(rows, small, small, 4)).astype(np.float32)
    build = lambda rngs: vae.Decoder(config, rngs=rngs, **BF16)  # noqa: E731
    return Work(build, lambda module, z: module(z), (latents,), gflop, theirs)


TOWERS = {
    "clip_h": lambda a: clip_work(1280, 32, 16, 5120, "gelu", 1024, 335.0, a),
    "clip_l": lambda a: clip_work(1024, 24, 16, 4096, "quick_gelu", 768, 162.0, a),
    "blip_l": blip_work,
    "t5_xl": t5_work,
    "vae_encode": lambda a: vae_work("encode", 271.0, a),
    "vae_decode": lambda a: vae_work("decode", 620.0, a),
}


class Ours:
    """One of our towers: made, it is compiled."""

    def __init__(self, work: Work):
        self.mesh = sharding.one_device_mesh()
        with sharding.use_mesh(self.mesh):
            graphdef, self.abstract = nnx.split(
                nnx.eval_shape(lambda: work.build(nnx.Rngs(params=0)))
            )
            # Norms and tables of a bfloat16 network stay float32.
            self.abstract = jax.tree.map(
                lambda x: jax.ShapeDtypeStruct(x.shape, "bfloat16" if x.ndim > 1 else "float32"),
                self.abstract,
            )
            self.arrays = jax.device_put(work.arrays, sharding.batch_sharding(self.mesh))

            def call(state, *arrays):
                return work.function(nnx.merge(graphdef, state), *arrays)

            begin = time.perf_counter()
            self.compiled = (
                jax.jit(call, compiler_options=compiling.options())
                .lower(self.abstract, *self.arrays)
                .compile()
            )
            self.compile_s = time.perf_counter() - begin

    def measure(self, args) -> dict[str, Any]:
        def leaf(path, x):
            value = timing.draw(jax.tree_util.keystr(path), x.shape).astype(x.dtype)
            return jax.device_put(value, sharding.replicated(self.mesh))

        sync = jax.block_until_ready
        with sharding.use_mesh(self.mesh):
            state = jax.tree_util.tree_map_with_path(leaf, self.abstract)
            call = lambda: self.compiled(state, *self.arrays)  # noqa: E731
            leaves = jax.tree.leaves(call())
            finite = all(bool(jnp.isfinite(x.astype(jnp.float32)).all()) for x in leaves)
            found = timing.measure(call, sync, seconds=args.seconds)
            extra = timing.profiled(call, sync, 1) if args.profile else {}
        return found | extra | {"compile_s": self.compile_s, "finite": finite}


class Theirs:
    """The same of transformers or diffusers, made when it is measured."""

    def __init__(self, work: Work):
        self.work = work

    def measure(self, args) -> dict[str, Any]:
        import torch

        torch.set_float32_matmul_precision("high")
        torch.set_num_threads(os.cpu_count())
        cuda = torch.cuda.is_available()
        device, dtype = "cuda" if cuda else "cpu", torch.bfloat16
        with torch.device(device), torch.inference_mode():
            module, arrays, function = self.work.theirs(torch)
            module = module.to(device, dtype).eval()
            arrays = [x.to(dtype) if x.is_floating_point() else x for x in arrays]
            sync = lambda _: torch.cuda.synchronize() if cuda else None  # noqa: E731
            return timing.measure(lambda: function(module, *arrays), sync, seconds=args.seconds)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", nargs="+", choices=TOWERS, default=list(TOWERS), help="these")
    parser.add_argument("--batch", type=int, default=256, help="images of CLIP and BLIP")
    parser.add_argument("--theirs", action="store_true", help="transformers and diffusers too")
    parser.add_argument("--only-theirs", action="store_true", help="and not ours")
    parser.add_argument(
        "--profile", action="store_true", help="print the costliest kernels of ours"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="timed, of each side")
    parser.add_argument("--tiny", action="store_true", help="small ones")
    tried.add_option(parser)
    args = parser.parse_args()
    tried.patch(args.tried)
    sides = {}
    for name in args.only:
        work = TOWERS[name](args)
        for kind, wanted in (
            (Ours, not args.only_theirs),
            (Theirs, args.theirs or args.only_theirs),
        ):
            label = f"tower/{kind.__name__.lower()}/{name}"
            if wanted:
                with timing.case(label):
                    sides[label] = work, kind(work)
    timing.wait_for_turn()
    for label in list(sides):
        work, side = sides.pop(label)
        with timing.case(label):
            found = side.measure(args)
            rows = len(work.arrays[0])
            gflop = None if args.tiny else work.gflop
            timing.emit(label, **timing.rates(rows, found["piped_s"], gflop), **found, rows=rows)


if __name__ == "__main__":
    main()
