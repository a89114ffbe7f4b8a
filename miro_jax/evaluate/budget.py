"""The work of `miro-jax plan`: memory of a chip, hours, disk and money of the stages of a run."""

import copy
import dataclasses
import json
import math
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from miro_jax.annotate.estimate import Look, disk, model_sizes
from miro_jax.annotate.models import Group, Toolbox
from miro_jax.cli import exit as exits
from miro_jax.cli.chips import CHIPS, read_prices
from miro_jax.data.printable import in_bytes, in_time
from miro_jax.evaluate import plan
from miro_jax.evaluate.base import Inputs, Judges, make_sampling
from miro_jax.evaluate.doctor import latent_shape, read_config
from miro_jax.evaluate.prompts import SHAPES, Prompts
from miro_jax.evaluate.run import validate_config
from miro_jax.evaluate.settings import AUTO, choose, evaluator_of, trained_on_shapes
from miro_jax.evaluate.settings import Settings as Evaluation
from miro_jax.evaluate.speed import KNOWN, TRAINING_BATCH
from miro_jax.models.flops import peak_tflops, sampling_flops, training_flops
from miro_jax.models.sharding import data_size
from miro_jax.models.solvers import get_solver
from miro_jax.rewards.names import short_name
from miro_jax.train import components
from miro_jax.train.memory import Layout, Memory, StepMemory, smallest_change

USABLE = 0.92  # of a chip's memory: the rest is the runtime's, and holes between arrays
TOWERS_MFU = 0.4  # of the rewards' towers and encoders, as measured on an H200: docs/benchmarks.md
# Of what JAX keeps for the backward pass, what was in memory on an H200 in bfloat16: 40.9 GB of the
# paper's step with 64 images of 77 caption tokens, 23.9 GB with cuDNN's attention.
KEPT, KEPT_WITH_CUDNN = 0.6, 0.31
# By the compiler for TPUs: what suffices for both programs that were compiled, and the share of the
# peak where no chip waits for others. See benchmarks/tpu_program.py.
KEPT_ON_TPU = 0.4
MFU_BY_COMPILER = {"v5e": 0.39, "v6e": 0.23}
TOWERS_MFU_BY_COMPILER = {"v5e": 0.54, "v6e": 0.29}  # the lowest of those that were compiled
# What the host takes for a training step, however small the network: docs/benchmarks.md.
HOST_SECONDS = 0.0116
_WITH_CUDNN = ("h100", "h200", "b200")
_KNOWN_DEVICE = "NVIDIA H200"
_GIB = 2**30
_JUDGE: Any = SimpleNamespace(name="", needs_caption=True)  # counts images as any reward would


@dataclasses.dataclass(frozen=True)
class Stage:
    """What a stage takes.

    Attributes:
      name: of it. images: that it works on. flops: of each. hours: of all chips together; usd:
        None where no price is known. rate: where the speed comes from.
    """

    name: str
    images: float
    flops: float
    hours: float
    usd: float | None
    rate: str


@dataclasses.dataclass(frozen=True)
class Budget:
    """All that `miro-jax plan` says; `text` writes it."""

    settings: plan.Settings
    layout: Layout
    batch_size: int
    remat: str
    memory: Memory
    limit: float  # usable bytes of a device
    change: tuple[Layout, str, Memory] | None  # by which a step fits
    steps: int
    stages: tuple[Stage, ...]
    bytes: dict[str, float]  # of records and checkpoints


def show(settings: plan.Settings) -> int:
    """Print the budget; returns the exit status: whether a step fits as it is configured."""
    budget = make(settings)
    if settings.json:
        exits.say(json.dumps(facts(budget), allow_nan=False))
    else:
        exits.say(text(budget))
    return exits.DONE if budget.memory.total <= budget.limit else exits.FAILED


def make(settings: plan.Settings) -> Budget:
    """Estimate everything.

    Raises:
      ValueError: training would refuse the config, or the batch or the mesh does not divide over
        the chips.
    """
    config = read_config(settings.config, settings.overrides)
    validate_config(config)
    name, count = settings.chips
    chip = CHIPS[name]
    layout = layout_of(config, count * chip.devices)
    step = StepMemory(config, latent_shape(config), kept_share(config, name))
    sizes, batch = step.network.sizes, config.train.batch_size
    memory = step.of(layout, batch)
    limit = USABLE * chip.memory_gib / chip.devices * _GIB
    change = None
    if memory.total > limit:
        change = smallest_change(step, layout, batch, limit)
    tokens = config.encoder.caption.max_tokens
    mfu, why = mfu_of(settings, sizes)
    towers, of_towers = towers_mfu(name)
    trained = config.train.num_steps * batch
    images, branches = evaluated_images(config), evaluated_branches(config)
    evaluations = get_solver(config.sample.solver).evaluations(config.sample.num_steps)
    sampled = sampling_flops(sizes, tokens, evaluations) * (branches / images if images else 0.0)
    steps, least = config.train.num_steps, config.train.num_steps * HOST_SECONDS
    annotated, record = annotation(config, settings.words)
    works = (
        ("annotate", settings.records, annotated, towers, 0.0),
        ("train", trained, training_flops(sizes, tokens), mfu, least),
        ("evaluate", images, sampled, mfu, 0.0),
    )
    stages = tuple(
        stage(settings, one, images, flops, share, of_towers if one == "annotate" else why, least)
        for one, images, flops, share, least in works
    )
    saved = step.of(Layout(), batch).state  # whole
    stored = {
        "a record": record,
        "records": record * settings.records,
        "a checkpoint": saved,
        "checkpoints": saved * (config.train.keep_checkpoints + 1),
    }
    return Budget(settings, layout, batch, step.remat, memory, limit, change, steps, stages, stored)


def kept_share(config: Any, chip: str) -> float:
    """Return the share of the values that JAX keeps which is in memory, see `KEPT`."""
    if config.model.dtype == "float32":
        return 1.0
    if CHIPS[chip].kind.startswith("TPU"):
        return KEPT_ON_TPU
    fused = chip in _WITH_CUDNN and config.model.attention != "xla"
    return KEPT_WITH_CUDNN if fused else KEPT


def layout_of(config: Any, devices: int) -> Layout:
    """Return how the mesh of a config lies on so many devices; ValueError where it does not."""
    data = data_size(config.mesh.data, config.mesh.model, devices)
    components.check_microbatches(config, data)
    return Layout(data, config.mesh.model, config.train.microbatches)


def towers_mfu(chip: str) -> tuple[float, str]:
    """Return the share of a chip's peak that rewards' towers and encoders reach, and why."""
    if share := TOWERS_MFU_BY_COMPILER.get(chip):
        return share, f"estimated at {share:.0%} of the peak, as the compiler expects of towers"
    return (
        TOWERS_MFU,
        f"estimated at {TOWERS_MFU:.0%} of the peak, as towers reach on an {_KNOWN_DEVICE}",
    )


def mfu_of(settings: plan.Settings, sizes: Any) -> tuple[float, str]:
    """Return the share of the peak that training reaches, and where that number comes from."""
    name, _ = settings.chips
    if settings.mfu:
        return settings.mfu, f"at {settings.mfu:.0%} of the peak, as requested"
    if share := MFU_BY_COMPILER.get(name):
        why = f"estimated at {share:.0%} of the peak, from the compiler; not measured on {name}"
        return share, why
    released, rate = read_config("miro"), KNOWN[_KNOWN_DEVICE, "miro"]
    measured = dataclasses.replace(
        sizes,
        **released.model.rin,
        latent_shape=latent_shape(released),
        num_rewards=len(released.data.train_rewards),
    )
    peak = peak_tflops(_KNOWN_DEVICE) or math.nan
    mfu = rate * training_flops(measured, 77) / (peak * 1e12)
    where = f"{rate:g} images/s of the paper's network on an {_KNOWN_DEVICE}"
    if CHIPS[name].kind == _KNOWN_DEVICE and measured == sizes:
        return mfu, f"measured: {where}, batch {TRAINING_BATCH}"
    return mfu, f"estimated at {mfu:.0%} of the peak, from {where}; not measured on {name}"


def stage(
    settings: plan.Settings,
    name: str,
    images: float,
    flops: float,
    mfu: float,
    why: str,
    least_seconds: float,
) -> Stage:
    """Return what one stage takes on the chips; least_seconds: that their hosts take for it."""
    chip, count = settings.chips
    peak = CHIPS[chip].devices * (peak_tflops(CHIPS[chip].kind) or math.nan)
    hours = images * flops / (count * peak * 1e12 * mfu) / 3600
    if hours < (least := least_seconds / 3600):
        hours = least
        why = f"at the {1e3 * HOST_SECONDS:g} ms that a host takes for a step; the chips take less"
    price = price_of(settings)
    return Stage(name, images, flops, hours, None if price is None else hours * count * price, why)


def price_of(settings: plan.Settings) -> float | None:
    """Return USD for an hour of a chip: as given, of the file, or of the table."""
    name, _ = settings.chips
    if settings.price is not None:
        return settings.price
    given = read_prices(settings.prices) if settings.prices else {}
    return given.get(name, CHIPS[name].price)


def annotation(config: Any, words: float) -> tuple[float, float]:
    """Return the operations and the bytes of a record, of models whose weights are the published.

    Args:
      words: of a caption.
    """
    toolbox = Toolbox(
        config.rewards,
        dict(config.encoder.image),
        dict(config.encoder.caption),
        groups=(),
        encode_512=config.annotate.encode_512,
        dtype=config.annotate.dtype,
    )
    every = Group("all", (*toolbox.names, *toolbox.encoders))
    seen = Look(1, 1.0, 0.0, words, 0.0, {})
    sizes = model_sizes(toolbox, [every], config.annotate.batch_size, seen, 1, 1)
    return 1e9 * sum(one.gflop for one in sizes["all"]), sum(disk(toolbox, seen).values())


def evaluated_branches(config: Any) -> float:
    """Return how many branches are sampled for all of `evaluated_images`.

    Images with guidance have two. There are as many of them as a config without guidance samples:
    what tables sample without it, for comparison, comes on top and has one.
    """
    plain = copy.deepcopy(config)
    plain.sample.guidance_scale = 0.0
    guided = evaluated_images(plain) if config.sample.guidance_scale else 0.0
    return evaluated_images(config) + guided


def evaluated_images(config: Any) -> float:
    """Return how many images the evaluators of a config sample, those made once counted twice."""
    settings = Evaluation(**config.evaluate)
    is_shapes = trained_on_shapes(config, config.data.records)
    categories, each = ("",), settings.max_prompts  # of a file or of captions, at most
    if is_shapes and settings.prompts in (AUTO, SHAPES):
        categories, each = settings.categories, settings.prompts_per_category
    per_level = [""] * settings.images_per_level
    inputs = Inputs(
        settings,
        make_sampling(config),
        Judges([_JUDGE]),
        Prompts("", dict.fromkeys(categories, [""] * each), per_level),
        config.sample.prompts,
        config.sample.images_per_prompt,
        {_JUDGE.name: {}},
        Path(),
    )
    names = list(dict.fromkeys(map(short_name, config.data.train_rewards)))
    chosen = [evaluator_of(name).build(inputs) for name in choose(config, is_shapes)]
    return float(sum(one.num_images(names) for one in chosen))


def text(budget: Budget) -> str:
    """Write the budget for people."""
    name, count = budget.settings.chips
    chip, memory, layout = CHIPS[name], budget.memory, budget.layout
    price = price_of(budget.settings)
    lines = [
        f"chips: {count} x {name}, {chip.memory_gib:g} GiB each, "
        + (f"{chip.devices} devices each, " if chip.devices > 1 else "")
        + (f"{price:g} USD an hour of one" if price is not None else "price not known: --price"),
        f"network: {memory.parameters / 1e6:,.1f} M parameters",
        f"memory of a {'chip' if chip.devices == 1 else 'device'} ({layout.data} x "
        f"{layout.model}, batch {budget.batch_size:,}, "
        f"{layout.rows(budget.batch_size):,} images at a time, remat {budget.remat}): "
        f"{memory.total / _GIB:.2f} GiB",
        f"  state {memory.state / _GIB:.2f}, kept for the backward pass {memory.kept / _GIB:.2f}, "
        f"an update {memory.update / _GIB:.2f}",
        f"  {_verdict(budget)}",
    ]
    for one in budget.stages:
        lines += ["", *_stage_lines(one, budget)]
    lines += ["", "disk:"]
    lines += [f"  {name}: {in_bytes(size, 1)}" for name, size in budget.bytes.items() if size]
    paid = [one.usd for one in budget.stages]
    hours = sum(one.hours for one in budget.stages)
    total = f"all stages: {hours:,.1f} hours, {hours * count:,.0f} chip-hours"
    if None not in paid:
        total += f", {sum(filter(None, paid)):,.0f} USD"
    lines += ["", total, "  machines that start, wait or are taken away come on top"]
    return "\n".join(lines)


def _verdict(budget: Budget) -> str:
    usable = f"{budget.limit / _GIB:.1f} GiB"
    if budget.memory.total <= budget.limit:
        return f"fits into {usable}"
    if budget.change is None:
        return f"DOES NOT FIT into {usable}, whatever is computed again: take more chips"
    layout, remat, memory = budget.change
    words = []
    if layout.microbatches != budget.layout.microbatches:
        words.append(f"--config.train.microbatches={layout.microbatches}")
    if remat != budget.remat:
        words.append(f"--config.model.rin.remat={remat}")
    return (
        f"DOES NOT FIT into {usable}; the smallest change: {' '.join(words)} takes "
        f"{memory.total / _GIB:.2f} GiB"
    )


def _stage_lines(one: Stage, budget: Budget) -> list[str]:
    if not one.images or not one.flops:
        why = "give --records" if one.flops else "no model has a network"
        return [f"{one.name}: not estimated, {why}"]
    cost = "" if one.usd is None else f", {one.usd:,.0f} USD"
    lines = [f"{one.name}: {in_time(one.hours)}{cost}"]
    work = f"{one.images:,.0f} images, {one.flops / 1e9:,.0f} GFLOP each"
    if one.name == "train":
        rate = budget.steps / one.hours / 3600
        work += f"; {rate:.2f} steps/s, {rate * budget.batch_size:,.0f} images/s"
        if records := budget.settings.records:
            work += f"; {one.images / records:.1f} times over the records"
    if one.name == "annotate":
        work += "; memory and pieces: miro-jax annotate --plan"
    return [*lines, f"  {work}", f"  {one.rate}"]


def facts(budget: Budget) -> dict[str, Any]:
    """Return the budget as JSON values."""
    name, count = budget.settings.chips
    changed = None
    if budget.change:
        layout, remat, memory = budget.change
        changed = {"microbatches": layout.microbatches, "remat": remat, "bytes": memory.total}
    return {
        "chips": {"name": name, "count": count, "usable_bytes": budget.limit},
        "parameters": budget.memory.parameters,
        "memory": dataclasses.asdict(budget.memory) | {"total": budget.memory.total},
        "fits": budget.memory.total <= budget.limit,
        "change": changed,
        "stages": [dataclasses.asdict(one) for one in budget.stages],
        "disk": budget.bytes,
    }
