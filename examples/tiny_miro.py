"""MIRO in one file: train an image model on its rewards, then sample at the scores that you want.

    python examples/tiny_miro.py        # about a minute; prints the dials, writes tiny_miro.png

The data are 12 x 12 images of one blob and captions that say where it lies. Like captions of the
web many are wrong, more often where the blob is bright. Two rewards judge an image alone, a third
how it agrees with its caption. The method (arXiv 2510.25897, section 3): score every training
image, turn scores into K levels, train a flow on captions and levels, sample at requested levels:

    x_t = (1 - t) x + t noise    t = 0 is data, t = 1 is noise
    velocity = noise - x         the network predicts x, and velocity = (x_t - x) / t
    v = v+ + w (v+ - v-)         v+ at the targets, v- at the negative targets; w = 0: no guidance

Letters: B batch, P pixels, D width, K levels of a reward, R rewards.
"""

import argparse

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image, ImageDraw

SIDE, K, D, BLOCKS = 12, 8, 192, 3
CAPTIONS = ("a blob on the left", "on the right", "at the top", "at the bottom")
REWARDS = ("bright", "large", "faithful")


def make_data(count, rng):
    """Draw images [count, P] in [-1, 1] and captions [count], some of which are wrong."""
    brightness, size, along, across = rng.uniform(size=(4, count, 1, 1))
    where = rng.integers(len(CAPTIONS), size=(count, 1, 1))
    near, far = 1.5 + 2.5 * along, 3 + 5 * across
    near = np.where(where % 2, SIDE - 1 - near, near)
    x, y = np.where(where < 2, (near, far), (far, near))
    rows, columns = np.mgrid[:SIDE, :SIDE]
    outside = np.hypot(columns - x, rows - y) - 1 - 2 * size
    light = (0.3 + 0.7 * brightness) / (1 + np.exp(3 * outside))
    wrong = rng.uniform(size=count) < 0.2 + 0.4 * brightness.ravel()  # the conflict
    captions = np.where(wrong, rng.integers(len(CAPTIONS), size=count), where.ravel())
    return (2 * light - 1).reshape(count, -1).astype(np.float32), captions


def score(images, captions):
    """Score images [B, P] with captions [B]: [B, R], each reward on a scale of its own."""
    light = np.clip((np.reshape(images, (-1, SIDE, SIDE)) + 1) / 2, 1e-3, 1)
    bright, total, half = light.max((1, 2)), light.sum((1, 2)), SIDE // 2
    halves = light[:, :, :half], light[:, :, half:], light[:, :half], light[:, half:]
    share = np.stack([h.sum((1, 2)) for h in halves]) / total
    return np.stack([bright, total / bright, share[captions, np.arange(len(light))]], 1)


def to_levels(scores):
    """Turn scores [B, R] into levels k / (K - 1) by K equal quantiles; 1 is best."""
    edges = np.quantile(scores, np.arange(1, K) / K, axis=0)  # [K - 1, R]
    return np.float32((scores[:, None] >= edges).sum(1) / (K - 1))


def init(key):
    """Make the parameters of a small residual MLP and of the tables of its conditions."""
    k = iter(jax.random.split(key, 20))
    normal = lambda *shape: jax.random.normal(next(k), shape)  # noqa: E731
    return {
        "caption": normal(len(CAPTIONS), D),
        "level": normal(len(REWARDS), K, D),
        "time": normal(D, D) / D**0.5,
        "input": normal(SIDE**2, D) / SIDE,
        "up": [normal(D, 2 * D) / D**0.5 for _ in range(BLOCKS)],
        "down": [jnp.zeros((2 * D, D)) for _ in range(BLOCKS)],
        "output": jnp.zeros((D, SIDE**2)),
    }


def velocity(params, x_t, t, captions, levels):
    """Predict the velocity [B, P] at x_t [B, P], t [B], captions [B], levels [B, R]; NaN: none."""
    angles = t[:, None] * 2.0 ** jnp.linspace(0, 6, D // 2)
    bins = jnp.int32(jnp.round(jnp.nan_to_num(levels * (K - 1), nan=-1)))  # -1: a row of zeros
    rewards = jnp.einsum("brk,rkd->bd", jax.nn.one_hot(bins, K), params["level"])
    condition = jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], -1) @ params["time"]
    condition += params["caption"][captions] + rewards
    h = x_t @ params["input"]
    for up, down in zip(params["up"], params["down"], strict=True):
        mixed = h + condition
        h += jax.nn.gelu(mixed / jnp.std(mixed, -1, keepdims=True) @ up) @ down
    return (x_t - h @ params["output"]) / jnp.maximum(t, 0.05)[:, None]


def train(x, captions, levels, steps, key, batch=256):
    """Return the averaged parameters after `steps` updates."""
    x, captions, levels = map(jnp.asarray, (x, captions, levels))
    optimizer = optax.adam(optax.cosine_decay_schedule(2e-3, steps))

    def loss_fn(params, rows, time_key, noise_key, drop_key):  # flow matching at logit-normal times
        noise = jax.random.normal(noise_key, (batch, SIDE**2))
        t = jax.nn.sigmoid(jax.random.normal(time_key, (batch,)))
        x_t = (1 - t[:, None]) * x[rows] + t[:, None] * noise
        known = jax.random.bernoulli(drop_key, 0.8, (batch, len(REWARDS)))
        v = velocity(params, x_t, t, captions[rows], jnp.where(known, levels[rows], jnp.nan))
        return jnp.mean((v - (noise - x[rows])) ** 2)

    @jax.jit
    def step(params, average, state, i):
        rows_key, *keys = jax.random.split(jax.random.fold_in(key, i), 4)
        rows = jax.random.randint(rows_key, (batch,), 0, len(x))
        loss, grad = jax.value_and_grad(loss_fn)(params, rows, *keys)
        updates, state = optimizer.update(grad, state)
        params = optax.apply_updates(params, updates)
        return params, optax.incremental_update(params, average, 0.01), state, loss

    params = average = init(key)
    state = optimizer.init(params)
    for i in range(steps):
        params, average, state, loss = step(params, average, state, i)
        if i % 500 == 0 or i == steps - 1:
            print(f"step {i:4}  loss {loss:.3f}", flush=True)
    return average


@jax.jit
def sample(params, key, captions, targets, negative, scale, steps=25):
    """Integrate from noise to images [B, P] at targets [B, R], guided away from negative ones."""

    def step(i, x):
        t = jnp.full(len(captions), 1 - i / steps)
        v_pos, v_neg = (velocity(params, x, t, captions, c) for c in (targets, negative))
        return x - (v_pos + scale * (v_pos - v_neg)) / steps

    noise = jnp.resize(jax.random.normal(key, (64, SIDE**2)), (len(captions), SIDE**2))
    return jax.lax.fori_loop(0, steps, step, noise)


def plot(images, scores, path, zoom=6):
    """Draw one image a level for each reward [R, K, P], and the score [R, K] over the level."""
    cell, left = SIDE * zoom + 4, K * (SIDE * zoom + 4) + 30
    page = Image.new("RGB", (left + 180, len(REWARDS) * (cell + 24)), "white")
    draw = ImageDraw.Draw(page)
    for r, name in enumerate(REWARDS):
        top, low, high = r * (cell + 24) + 20, scores[r].min(), scores[r].max() + 1e-6
        words = f"{name}: requested 0 to 1 (left), achieved {low:.2f} to {high:.2f} (right)"
        draw.text((2, top - 18), words, "black", font_size=13)
        for k in range(K):
            pixels = np.uint8(np.clip(images[r, k] * 127.5 + 127.5, 0, 255)).reshape(SIDE, SIDE)
            page.paste(Image.fromarray(pixels).resize((cell - 4,) * 2), (k * cell, top))
        ys = top + (cell - 6) * (high - scores[r]) / (high - low)
        xs = np.linspace(left, left + 160, K)
        draw.line([*zip(xs, ys, strict=True)], fill="crimson", width=3)
    page.save(path)


def main():
    """Train, then print and plot what each requested level achieves."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=1500, help="updates (default 1500)")
    parser.add_argument("--out", default="tiny_miro.png", help="the plot (tiny_miro.png)")
    flags, asked = parser.parse_args(), np.arange(64 * K) % len(CAPTIONS)
    x, captions = make_data(20_000, np.random.default_rng(0))
    params = train(x, captions, to_levels(score(x, captions)), flags.steps, jax.random.key(0))

    def draw(reward, levels, w=0.0):
        targets = np.full((len(asked), len(REWARDS)), np.nan, np.float32)
        targets[:, reward] = levels  # of the other rewards nothing is requested
        return np.asarray(sample(params, jax.random.key(1), asked, targets, 0 * targets, w))

    dials = []
    for r, name in enumerate(REWARDS):
        images = draw(r, np.repeat(np.linspace(0, 1, K), 64))
        dials.append((images[::64], score(images, asked)[:, r].reshape(K, 64).mean(1)))
        print(f"{name:8}  requested 0 to 1: achieved", *(f"{s:.2f}" for s in dials[-1][1]))
    plot(*map(np.stack, zip(*dials, strict=True)), flags.out)
    obeyed = (
        ("by the training images", x, captions),
        ("by samples without targets", draw(-1, np.nan), asked),
        ("by samples with faithful = 1", draw(-1, 1), asked),
        ("by the same, guided away from 0", draw(-1, 1, w=1.0), asked),
    )
    for text, images, captions in obeyed:
        share = np.mean(score(images, captions)[:, -1] > 0.5)
        print(f"{100 * share:3.0f} % of captions are obeyed {text}")
    print(f"wrote {flags.out}")


if __name__ == "__main__":
    main()
