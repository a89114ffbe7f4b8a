"""The work of `miro-jax doctor`: it looks at the machine, and times it on request."""

import dataclasses
import json
import os
from collections.abc import Sequence
from typing import Any

import jax

from miro_jax.cli import exit as exits
from miro_jax.cli import pull
from miro_jax.cli.finding import FAILED, Finding
from miro_jax.cli.machine import examine
from miro_jax.evaluate import doctor
from miro_jax.models.flops import peak_tflops
from miro_jax.train.rates import Network, Rate, product_rate

TRAINING_BATCH = 64
# Images/s of a training step at batch 64: (device, config). docs/benchmarks.md has versions, dates.
KNOWN = {("NVIDIA H200", "miro"): 508.0}


def check_weights(names: str) -> None:
    """Raise UsageError where a name of weights, of several with commas between, is unknown."""
    pull.choose(names.split(","))


def look(settings: doctor.Settings) -> int:
    """Print what is found, and the rates where they are wanted; returns the exit status."""
    names = settings.weights.split(",") if settings.weights else ()
    findings = examine(settings.workdir and os.path.expanduser(settings.workdir), names)
    healthy = all(finding.state != FAILED for finding in findings)
    if not settings.json:
        exits.say("\n".join(f"{f.state:4} {f.name}: {f.text}" for f in findings))
    rates = measure(settings) if settings.benchmark and healthy else []
    if settings.json:
        exits.say(json.dumps(_facts(findings, rates), allow_nan=False))
    return exits.DONE if healthy else exits.FAILED


def measure(settings: doctor.Settings) -> list[Rate]:
    """Time the three, and print a line of each as it is done."""
    device = jax.devices()[0]
    accelerator = device.platform != "cpu"
    name = settings.config
    if name == doctor.AUTO:
        name = "miro" if accelerator else "base"
    config = doctor.read_config(name)
    network = Network(config, doctor.latent_shape(config))
    batch = 8 if accelerator else 32
    product = product_rate(
        8192 if accelerator else 2048, "bfloat16" if accelerator else "float32", settings.seconds
    )
    rates = [product]
    peak = peak_tflops(device.device_kind)
    share = f", {100 * product.tflops / peak:.0f}% of the vendor's figure" if peak else ""
    _report(settings, product, share)
    for rate in (
        lambda: network.training_rate(TRAINING_BATCH, settings.seconds),
        lambda: network.sampling_rate(batch, config.sample.num_steps, settings.seconds),
    ):
        rates.append(rate())
        words = f", {100 * rates[-1].tflops / product.tflops:.0f}% of the product's rate"
        known = KNOWN.get((device.device_kind, name)) if len(rates) == 2 else None
        words += f"; known of this device: {known:g} images/s" if known else ""
        _report(settings, rates[-1], words)
    return rates


def _report(settings: doctor.Settings, rate: Rate, more: str) -> None:
    if not settings.json:
        exits.say(
            f"{'rate':4} {rate.name}: {rate.per_second:.3g} {rate.unit}/s, {rate.tflops:.3g} "
            f"TFLOP/s{more}; first call after {rate.compile_seconds:.1f} s"
        )


def _facts(findings: Sequence[Finding], rates: Sequence[Rate]) -> dict[str, Any]:
    return {
        "findings": [dataclasses.asdict(finding) for finding in findings],
        "rates": [dataclasses.asdict(rate) for rate in rates],
    }
