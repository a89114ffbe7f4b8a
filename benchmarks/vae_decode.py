"""Decode image latents by SDXL's autoencoder: ours beside diffusers, on this CPU, in one run.

    python -m benchmarks.vae_decode                       # one picture of 256 x 256, float32
    python -m benchmarks.vae_decode --batch 4 --encode    # four, and encoding too
    python -m benchmarks.vae_decode --convolutions        # single convolutions of the decoder
    python -m benchmarks.vae_decode --parity              # differences, of both halves

Weights are random, of the published sizes; nothing is downloaded. The sides take turns, so that
other load hits both; the same processors and threads serve both; medians and quickest turns are
compared. The rate of a matrix product is measured between them: it is the ceiling. Prints a line to
read and a line of JSON. Needs PyTorch and diffusers, and about 3 GB of memory.
"""

import argparse
import functools
import json
import os
import statistics
import tempfile
import time
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import torch
from flax import nnx

from miro_jax.pretrained.networks import cpu
from miro_jax.pretrained.networks.vae_keys import load_vae
from miro_jax.pretrained.weights import hub
from tests.oracles import vae as oracle

PRODUCT = (4096, 1024, 1024)  # rows, inputs, outputs of the matrix product that is the ceiling
# (channels, side) of the plain convolutions of a decoder that makes 256 x 256.
CONVOLUTIONS = ((512, 32), (512, 64), (256, 128), (128, 256))
DOUBLED = ((512, 32), (512, 64), (256, 128))  # and of those that double the sides


def compare(calls: dict[str, Callable[[], object]], repeats: int) -> tuple[dict, dict]:
    """Return median and least seconds of each call.

    The calls take turns, after one turn that is not timed.
    """
    times = {name: [] for name in calls}
    for turn in range(repeats + 1):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            if turn:
                times[name].append(time.perf_counter() - start)
    medians = {name: statistics.median(values) for name, values in times.items()}
    return medians, {name: min(values) for name, values in times.items()}


def product() -> tuple[Callable[[], object], float]:
    """Return a call of a large matrix product and its GFLOP."""
    rows, inputs, outputs = PRODUCT
    x, y = jnp.ones((rows, inputs)), jnp.ones((inputs, outputs))
    multiply = jax.jit(jnp.dot)
    return lambda: multiply(x, y).block_until_ready(), 2e-9 * rows * inputs * outputs


def count_gflop(half: torch.nn.Module, run: Callable[[], object]) -> tuple[float, float]:
    """Return GFLOP of convolutions and linear maps: taken directly, and as our CPU code does.

    Attention, a few in a thousand of them, is left out.
    """
    counted = [0.0, 0.0]

    def hook(share, module, _inputs, output):
        each = module.weight.numel() // module.weight.shape[0]
        gflop = 2e-9 * output.numel() * each
        counted[0] += gflop
        counted[1] += gflop * share

    hooks = []
    for name, module in half.named_modules():
        share = 1.0
        if isinstance(module, torch.nn.Conv2d) and module.kernel_size == (3, 3):
            wide = min(module.weight.shape[:2]) >= cpu.FEWEST_CHANNELS
            if wide and module.stride == (1, 1):
                share = 1 / 4 if "upsamplers" in name else 1 / 2
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            hooks.append(module.register_forward_hook(functools.partial(hook, share)))
    run()
    for registered in hooks:
        registered.remove()
    return counted[0], counted[1]


def load(folder: str, part: str) -> Callable[[np.ndarray], object]:
    """Return one of our halves as a jitted function of an array."""
    network = load_vae(hub.open(folder), part)
    call = jax.jit(lambda state, x: nnx.merge(network.graphdef, state)(x))
    return lambda x: jax.block_until_ready(call(network.state, x))


def prepared(call: Callable[..., jax.Array], *arrays: jax.Array) -> Callable[[], jax.Array]:
    """Bind arrays that are on the device to a jitted function, and wait for what it gives."""
    return lambda: call(*arrays).block_until_ready()


def time_half(part: str, network, folder: str, options) -> dict:
    """Measure one half, print what came out and return it."""
    side = options.size // 8 if part == "decoder" else options.size
    shape = (options.batch, side, side, 4 if part == "decoder" else 3)
    x = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    ours, theirs = load(folder, part), network.decode if part == "decoder" else network.encode
    x_ours, x_theirs = jnp.asarray(x), torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    multiply, product_gflop = product()
    calls = {"diffusers": lambda: theirs(x_theirs), "ours": lambda: ours(x_ours), "_": multiply}
    direct, done = count_gflop(getattr(network, part), calls["diffusers"])
    seconds, least = compare(calls, options.repeats)
    ceiling = product_gflop / seconds["_"]
    found = {
        "benchmark": f"vae_{part}",
        "batch": options.batch,
        "size": options.size,
        "threads": torch.get_num_threads(),
        "repeats": options.repeats,
        "diffusers_seconds": round(seconds["diffusers"], 3),
        "ours_seconds": round(seconds["ours"], 3),
        "ratio": round(seconds["diffusers"] / seconds["ours"], 2),
        "diffusers_least_seconds": round(least["diffusers"], 3),
        "ours_least_seconds": round(least["ours"], 3),
        "ratio_of_least": round(least["diffusers"] / least["ours"], 2),
        "gflop": round(direct, 1),
        "ours_gflop": round(done, 1),
        "product_gflops": round(ceiling, 1),
        "product_most_gflops": round(product_gflop / least["_"], 1),
        "diffusers_share": round(direct / seconds["diffusers"] / ceiling, 2),
        "ours_share": round(done / seconds["ours"] / ceiling, 2),
    }
    print(
        f"{part}, batch {options.batch}, {options.size} pixels: ours {seconds['ours']:.2f} s, "
        f"diffusers {seconds['diffusers']:.2f} s, ratio {found['ratio']} "
        f"(of the quickest turns: {least['ours']:.2f} s, {least['diffusers']:.2f} s, "
        f"{found['ratio_of_least']}). The matrix product runs "
        f"at {ceiling:.0f} GFLOP/s; diffusers reaches {found['diffusers_share']:.0%} of it with "
        f"{direct:.0f} GFLOP, ours {found['ours_share']:.0%} with {done:.0f}."
    )
    return found


def time_convolutions(options) -> list[dict]:
    """Measure single convolutions, print what came out and return it."""
    rng, found = np.random.default_rng(0), []
    multiply, product_gflop = product()
    cases = [(*case, False) for case in CONVOLUTIONS] + [(*case, True) for case in DOUBLED]
    for channels, side, double in cases:
        x = rng.normal(size=(options.batch, side, side, channels)).astype(np.float32)
        kernel = rng.normal(size=(3, 3, channels, channels)).astype(np.float32)
        x_theirs = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
        kernel_theirs = torch.from_numpy(kernel.transpose(3, 2, 0, 1).copy())

        def theirs(x=x_theirs, kernel=kernel_theirs, double=double):
            x = torch.nn.functional.interpolate(x, scale_factor=2.0) if double else x
            return torch.nn.functional.conv2d(x, kernel, padding=1)

        direct, quick = cpu.direct, cpu.by_tiles
        if double:
            direct, quick = cpu.doubled, cpu.doubled_by_differences
        calls = {"torch": theirs, "_": multiply}
        for name, function in (("direct", direct), ("quick", quick)):
            calls[name] = prepared(jax.jit(function), jnp.asarray(x), jnp.asarray(kernel))
        _, seconds = compare(calls, options.repeats)
        row = {"channels": channels, "side": side, "doubled": double}
        row |= {f"{n}_ms": round(1e3 * s, 1) for n, s in seconds.items() if n != "_"}
        row["product_gflops"] = round(product_gflop / seconds["_"], 1)
        found.append(row)
        print(
            f"{channels} channels, {side} x {side}{', doubled' if double else ''}: torch "
            f"{row['torch_ms']} ms, lax.conv {row['direct_ms']} ms, {quick.__name__} "
            f"{row['quick_ms']} ms"
        )
    return [{"benchmark": "vae_convolutions", "batch": options.batch, "rows": found}]


def compare_values(network, folder: str, options) -> list[dict]:
    """Compare both halves with diffusers, print and return the largest relative differences."""
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (options.batch, options.size, options.size, 3)).astype(np.float32)
    latents = rng.normal(size=(options.batch, *(2 * [options.size // 8]), 4)).astype(np.float32)
    with jax.default_matmul_precision("highest"):
        mean, log_variance = load(folder, "encoder")(images)
        ours = {"mean": mean, "std": jnp.exp(log_variance / 2), "log_variance": log_variance}
        ours["pictures"] = load(folder, "decoder")(latents)
    theirs = oracle.encode(network, images) | oracle.decode(network, latents)
    found = {
        name: float(np.abs(np.asarray(value) - theirs[name]).max() / np.abs(theirs[name]).max())
        for name, value in ours.items()
    }
    print(
        f"largest difference over largest value, {options.size} pixels: "
        + ", ".join(f"{name} {value:.1e}" for name, value in found.items())
    )
    return [{"benchmark": "vae_parity", "size": options.size, **found}]


def main() -> None:
    """Read the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batch", type=int, default=1, help="pictures at a time (default 1)")
    parser.add_argument("--size", type=int, default=256, help="pixels a side (default 256)")
    parser.add_argument("--repeats", type=int, default=5, help="timed turns (default 5)")
    parser.add_argument("--threads", type=int, help="processors used (default: all there are)")
    parser.add_argument("--encode", action="store_true", help="measure the encoder too")
    parser.add_argument("--convolutions", action="store_true", help="single convolutions instead")
    parser.add_argument("--parity", action="store_true", help="differences instead")
    options = parser.parse_args()
    processors = sorted(os.sched_getaffinity(0))[: options.threads]
    os.sched_setaffinity(0, processors)  # before JAX starts its threads, one a processor
    torch.set_num_threads(len(processors))
    with torch.inference_mode(), tempfile.TemporaryDirectory() as folder:
        if options.convolutions:
            found = time_convolutions(options)
        else:
            network = oracle.make(0, **oracle.SDXL)
            oracle.save(network, folder)
            if options.parity:
                found = compare_values(network, folder, options)
            else:
                parts = ["decoder", "encoder"] if options.encode else ["decoder"]
                found = [time_half(part, network, folder, options) for part in parts]
    for row in found:
        print(json.dumps(row))


if __name__ == "__main__":
    main()
