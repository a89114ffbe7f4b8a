"""Mean Flows beside the stage `distil`: two students of one teacher, trained for as long.

    python benchmarks/meanflow.py --checkpoint=runs/base --student=runs/student --out=runs/mean

Trains a student into --out by Mean Flows (arXiv 2505.13447) and measures it beside that of the
stage. Network, start, levels, guidance, optimizer and rows of an update (128) are those of the
stage; the number of updates is the one that takes as long as --stage-steps of the stage, timed in
turn. What differs is the target, for which no trajectory is integrated. With t > r, time 1 noise,

    u(x_t, t, r) = 1 / (t - r) int_r^t v(x_s, s) ds            the average velocity      (Eq. 3)
    u = v - (t - r) (v du/dx + du/dt)                          the identity              (Eq. 6)
    loss = |u - stop(v - (t - r) jvp(u; v, 1, 0))|^2           tangents of x, t and r    (Eq. 9)

v is the guided velocity of the teacher at noisy images of the records. Each error is divided by
itself plus a constant, in both students (section 4.3). It needs a teacher without
self-conditioning, whose velocity depends on x_t and t alone, and attention by "xla": a fused kernel
has no forward-mode derivative. An interrupted training resumes. Letters: B rows, N images.
"""

import argparse
import dataclasses
import itertools
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

sys.path.insert(0, str(Path(__file__).parent.parent))

from configs.base import get_config
from miro_jax.cli import build
from miro_jax.cli.stored_checkpoint import locate
from miro_jax.data.shapes import world
from miro_jax.evaluate import base, dials, distillation, geneval
from miro_jax.evaluate.preview import Preview
from miro_jax.evaluate.prompts import make_prompts, prompts_in_turn
from miro_jax.evaluate.settings import Settings
from miro_jax.models import sharding
from miro_jax.models.flow import interpolate, squared_error
from miro_jax.models.guidance import guide
from miro_jax.models.sampler import Branch, encode_branches
from miro_jax.report.statistics import bootstrap_mean
from miro_jax.sample.pipeline import MiroPipeline
from miro_jax.sample.trained import Trained, load, weights_name
from miro_jax.train import components, distil, extend, loop
from miro_jax.train.settings import Distillation
from miro_jax.train.state import TrainState, over_leaves
from miro_jax.train.step import apply_gradient, pad_together

Array = jax.Array
Average = Callable[[Array, Array, Array], Array]  # u(x [B, ...], t [B], r [B])
_END = 0.1  # of the range of times, drawn beyond each end and counted as the end
_FLOOR = 1e-2  # added to an error where it divides itself, as in `train.distil`
EVALUATIONS, TEACHER_STEPS = (4, 2, 1), 16


def mean_flow(average: Average, x: Array, t: Array, end: Array, v: Array) -> tuple[Array, Array]:
    """Return the average velocity `[B, ...]` and its target, through which no gradient passes.

    Args:
      average: of the student. x: [B, ...] at times t [B]. end: [B], the times r <= t.
      v: [B, ...], the velocity at x and t.
    """
    u, along = jax.jvp(average, (x, t, end), (v, jnp.ones_like(t), jnp.zeros_like(end)))
    span = (t - end).reshape((-1,) + (1,) * (x.ndim - 1))
    return u, jax.lax.stop_gradient(v - span * along)  # Eq. 10


def draw_times(key: Array, count: int, equal: float) -> tuple[Array, Array]:
    """Draw times t and r <= t `[count]` in [0, 1], both ends included; r = t for a share of them.

    Where r = t the target is v itself, from which the others grow. Ends are drawn because sampling
    begins at t = 1 and a single step ends at r = 0.
    """
    of_pair, of_share = jax.random.split(key)
    pair = jax.random.uniform(of_pair, (2, count), minval=-_END, maxval=1.0 + _END)
    low, high = jnp.sort(jnp.clip(pair, 0.0, 1.0), axis=0)
    return high, jnp.where(jax.random.bernoulli(of_share, equal, (count,)), high, low)


def make_mean_flow_step(
    parts: components.Components,
    settings: Distillation,
    equal: float,
    ema_decay: float,
    negative: np.ndarray,
    seed: int,
) -> Callable[..., tuple[TrainState, dict[str, Any]]]:
    """Return the pure `step(state, batch, teacher)`, as `train.distil.make_distil_step` does."""

    def loss(params, buffers, teacher, batch, key):
        keys = jax.random.split(key, 4)
        levels, scale = distil.draw_condition(keys[0], batch["levels"], settings)
        tokens, mask = batch["caption_tokens"], batch["caption_mask"]
        tokens, mask, text, shown = pad_together(tokens, mask, negative)
        positive = Branch(tokens, mask, levels)
        other = jnp.broadcast_to(text, tokens.shape), jnp.broadcast_to(shown, mask.shape)
        against = Branch(*other, jnp.zeros_like(levels))
        mean, std = (batch[name].astype(jnp.float32) for name in ("image_mean", "image_std"))
        x = parts.image_encoder.normalize(mean + std * jax.random.normal(keys[1], mean.shape))
        t, end = draw_times(keys[2], len(x), equal)
        x_t = interpolate(x, jax.random.normal(keys[3], x.shape), t)
        v = guided(nnx.merge(parts.graphdef, *teacher), x_t, t, (positive, against), scale)
        student = nnx.merge(parts.graphdef, params, buffers)
        condition = student.encode_condition(tokens, mask, levels)

        def average(x, t, end):
            return student(x, t, *condition, None, (end, scale))[0]

        error = squared_error(*mean_flow(average, x_t, t, end, v))
        return jnp.mean(error / jax.lax.stop_gradient(error + _FLOOR)), {"loss": jnp.mean(error)}

    def step(state: TrainState, batch: dict[str, Array], teacher: tuple):
        key = jax.random.fold_in(jax.random.key(seed), state.step)
        gradient = jax.grad(loss, has_aux=True)
        grads, metrics = gradient(state.params, state.buffers, teacher, batch, key)
        new, more = apply_gradient(state, grads, parts.optimizer, parts.schedule, ema_decay)
        return new, metrics | more

    return step


def guided(teacher: Any, x: Array, t: Array, branches: tuple[Branch, Branch], scale: Array):
    """Return the guided velocity [B, H, W, C] of the teacher at times t [B]; no gradient passes."""
    encoded = encode_branches(teacher, *branches)
    both, _ = teacher(jnp.concatenate([x, x]), jnp.concatenate([t, t]), *encoded, None)
    return jax.lax.stop_gradient(guide(*jnp.split(both, 2), scale))


@dataclasses.dataclass(frozen=True)
class Job:
    """A teacher and how students of it are trained.

    Attributes:
      config: of a student. teacher: the network. equal: see `draw_times`.
    """

    config: Any
    teacher: Trained
    equal: float

    @property
    def settings(self) -> Distillation:
        return Distillation(**self.config.distil)

    def with_steps(self, steps: int) -> "Job":
        """Return the job of so many updates of all rows of the stage, one condition a row."""
        config = self.config.copy_and_resolve_references()
        with config.unlocked():
            config.train.num_steps = steps
            config.train.batch_size = self.settings.batch_size * self.settings.spans_per_trajectory
        return dataclasses.replace(self, config=config)

    def start(self, parts: components.Components) -> TrainState:
        """Return the state of a student before its first update: the teacher."""
        return extend.start(parts, jax.device_get(self.teacher.weights), self.config.seed)

    def make_step(self, parts: components.Components, by_stage: bool = False) -> Callable:
        """Return the jitted `step(leaves, batch)` of Mean Flows, or of the stage."""
        c, decay = self.config, self.config.train.ema_decay
        negative = np.asarray(parts.caption_encoder.encode([""])[0], np.float32)
        if by_stage:
            shared = parts.graphdef, parts.optimizer, parts.schedule, self.settings
            step = distil.make_distil_step(*shared, decay, negative, c.seed)
        else:
            shared = parts, self.settings, self.equal
            step = make_mean_flow_step(*shared, decay, negative, c.seed)
        out = jax.tree.leaves(parts.shardings), sharding.replicated(parts.mesh)
        of_leaves = over_leaves(step, jax.tree.structure(parts.abstract))
        jitted, fixed = jax.jit(of_leaves, donate_argnums=0, out_shardings=out), self.start(parts)
        return lambda leaves, batch: jitted(leaves, batch, (fixed.params, fixed.buffers))


def make_job(checkpoint: str, equal: float) -> Job:
    """Read the teacher; ValueError where Mean Flows cannot take it."""
    teacher, config = load(checkpoint), get_config()
    if teacher.config.self_condition or teacher.attention != "xla":
        raise ValueError("The teacher must have no self-conditioning, and attention by xla.")
    config.distil.checkpoint = checkpoint
    config = distillation.student_config(config, locate(checkpoint), weights_name(teacher))
    config.train.ema_decay, config.train.sample_every_steps = 0.99, 0
    return Job(config, teacher, equal)


def seconds_of_updates(job: Job, rounds: int = 9) -> tuple[float, float]:
    """Return the median seconds of an update of the stage and of Mean Flows, taken in turn."""
    rng, rows = np.random.default_rng(0), job.with_steps(1000).config.train.batch_size
    parts = components.build_components(job.config)
    texts = prompts_in_turn(job.config.evaluate.categories, rows, seed=1)
    tokens = parts.caption_encoder.encode(texts)
    length = max(map(len, tokens))
    padded = np.zeros((rows, length, tokens[0].shape[-1]), np.float32)
    for row, one in zip(padded, tokens, strict=True):
        row[: len(one)] = one
    image = rng.uniform(-1, 1, (rows, *job.teacher.config.latent_shape)).astype(np.float32)
    batch = {
        "caption_tokens": padded,
        "caption_mask": np.arange(length) < np.array([[len(one)] for one in tokens]),
        "levels": rng.uniform(size=(rows, len(parts.reward_names))).astype(np.float32),
        "image_mean": image,
        "image_std": np.zeros_like(image),
    }
    few = {name: array[: job.settings.batch_size] for name, array in batch.items()}
    with sharding.use_mesh(parts.mesh):
        cases = [(job.make_step(parts, by_stage=True), few), (job.make_step(parts), batch)]
        states = [jax.tree.leaves(job.start(parts)) for _ in cases]
        taken = [], []
        for turn, number in itertools.product(range(rounds + 1), range(2)):
            step, inputs = cases[number]
            begin = time.perf_counter()
            states[number] = jax.block_until_ready(step(states[number], inputs)[0])
            if turn:  # the first compiles
                taken[number].append(time.perf_counter() - begin)
    return statistics.median(taken[0]), statistics.median(taken[1])


def train(job: Job, workdir: Path) -> None:
    """Train a student by Mean Flows; what is complete is left alone."""
    loop.run(job.config, workdir, Preview, job.start, lambda config, parts: job.make_step(parts))


@dataclasses.dataclass(frozen=True)
class Measured:
    """One network at one number of steps.

    Attributes:
      table: GenEval-like, without guidance and with it. cross: changes of scores, 0 to 1.
      right: [2, prompts], share of the images of each that are right, in the order of the table.
    """

    table: list
    cross: Any
    right: np.ndarray


def measure(job: Job, network: Trained, num_steps: int, images: int) -> Measured:
    """Sample and judge with the evaluators of the stage; images: of a dial's end."""
    options = {**job.config.evaluate, "levels": (0.0, 1.0), "images_per_level": images}
    settings, usual = Settings(**options), job.teacher.usual
    prompts = make_prompts(settings, True, Path(job.config.data.records), job.config.sample.seed)
    how = dataclasses.replace(usual.settings, num_steps=num_steps)
    sampling = base.Sampling(how, job.config.sample.seed, usual.targets)
    judges = base.Judges(build.load_rewards(job.config), job.teacher.bins)
    pipeline, count = base.Remembering(MiroPipeline(network, 96)), settings.images_per_prompt
    table = geneval.Evaluator(sampling, prompts.categories, count).run(pipeline).rows
    ranges = dials.Evaluator(judges, sampling, prompts.per_level, settings.levels).run(pipeline)
    texts, right = [text for text in prompts.texts for _ in range(count)], []
    for scale in sampling.scales:  # the same images as those of the table, which are kept
        made = sampling.sample(pipeline, prompts.texts, count, guidance_scale=scale)
        right.append(np.reshape(list(world.check_all(made, texts)), (-1, count)).mean(axis=1))
    return Measured(table, ranges.cross, np.stack(right))


def report(rows: dict[str, Measured], pairs: list[tuple[str, str]]) -> None:
    """Print two tables in Markdown; pairs: names of rows, of which the first is compared."""
    print("\n| | guidance 1 | against the stage's | without guidance | against the stage's |")
    print("| --- | --- | --- | --- | --- |")
    against = dict(pairs)
    for name, row in rows.items():
        cells = []
        for number in (1, 0):
            cells += [_percent(row.table[number]["overall"]), ""]
            if name in against:
                change = row.right[number] - rows[against[name]].right[number]
                cells[-1] = _signed(bootstrap_mean(100 * change))
        print(f"| {name} | {' | '.join(cells)} |")
    print(f"\n| change of the mean score, 0 to 1 | {' | '.join(rows)} |")
    print("| --- |" + " --- |" * len(rows))
    for name in next(iter(rows.values())).cross["asked"]:
        print(f"| {name} | {' | '.join(_range(row.cross, name) for row in rows.values())} |")


def _percent(share: dict) -> str:
    accuracy, low, high = (100 * share[name] for name in ("accuracy", "low", "high"))
    return f"{accuracy:.1f} % ({low:.1f} to {high:.1f})"


def _signed(mean: Any) -> str:
    return f"{mean['mean']:+.1f} ({mean['low']:+.1f} to {mean['high']:+.1f})"


def _range(cross: Any, name: str) -> str:
    row, column = cross["asked"].index(name), cross["measured"].index(name)
    mean, low, high = (cross[key][row][column] for key in ("difference", "low", "high"))
    return f"{mean:.3f} ({low:.3f} to {high:.3f})"


def main() -> None:
    """Train, measure, print the tables."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--checkpoint", default="runs/base", help="run that is the teacher")
    parser.add_argument("--student", default="", help="run of the stage; empty measures none")
    parser.add_argument("--out", default="runs/mean", help="folder of the new student's run")
    parser.add_argument("--steps", type=int, help="updates, in place of those of equal time")
    parser.add_argument("--stage-steps", type=int, default=800, help="of the stage's student")
    parser.add_argument("--equal", type=float, default=0.25, help="share of rows with r = t")
    parser.add_argument("--images", type=int, default=96, help="of each end of a dial")
    args = parser.parse_args()
    job = make_job(args.checkpoint, args.equal)
    steps = args.steps
    if steps is None:
        stage, ours = seconds_of_updates(job)
        steps = round(args.stage_steps * stage / ours)
        print(f"an update: stage {stage:.3f} s, Mean Flows {ours:.3f} s; {steps} updates of it")
    begin = time.perf_counter()
    train(job.with_steps(steps), Path(args.out))
    print(f"trained in {time.perf_counter() - begin:.0f} s, r = t for {args.equal:.0%} of the rows")
    rows = {f"teacher, {TEACHER_STEPS}": measure(job, job.teacher, TEACHER_STEPS, args.images)}
    students = {"Mean Flows": args.out} | ({"stage": args.student} if args.student else {})
    for (name, folder), count in itertools.product(students.items(), EVALUATIONS):
        rows[f"{name}, {count}"] = measure(job, load(folder), count, args.images)
    pairs = [(f"Mean Flows, {count}", f"stage, {count}") for count in EVALUATIONS]
    report(rows, pairs if args.student else [])


if __name__ == "__main__":
    main()
