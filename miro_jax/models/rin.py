"""The velocity network: a Recurrent Interface Network with reward tokens (`CADRINTextCond` of the
release).

One evaluation, from a noisy image to a velocity:

    x tokens  = RMSNorm(Linear(patches of c_in x_t)) + positions
    condition = [time ; encoder([rewards + reward positions ; registers ; caption tokens])]
    z         = latent table + time + LN2(p + MLP(LN1(p)))     p = last latent tokens
    each block: z <- condition, z <- x tokens, z <- z (several times), x tokens <- z
    velocity  = c_out Linear(RMSNorm(x tokens))           or, where it predicts the image F,
                (x_t - F) / t       or, with a skip gate g = Linear(LN(mean of z)) in R,
                (1 - g) (x_t - F) / t

with sigma = 0.5, gamma = 1 - t (the release's time, 1 is data),
    c_in = 1 / sqrt((gamma sigma)^2 + (1 - gamma)^2),   c_out = sqrt(1 + sigma^2).

Source: MIRO (arXiv 2510.25897) section 3 and the authors' release; RIN (arXiv 2212.11972).
The layers are a Python loop, not a scan over stacked parameters: LAMB's trust ratio is one number
per layer's matrix, and a stacked parameter would share it.

Letters: B batch, H W C image, P patch side, N image tokens, M latent tokens, L caption tokens,
R rewards, G registers, D latent width.
"""

import dataclasses
import functools
import math
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from miro_jax.models import flow
from miro_jax.models.attention import CrossAttentionBlock, SelfAttentionBlock
from miro_jax.models.compiling import row_major
from miro_jax.models.layers import (
    GeluMLP,
    LayerNorm,
    Linear,
    LogVariance,
    RMSNorm,
    ScalarEmbedding,
    Table,
)
from miro_jax.models.patches import patchify, unpatchify
from miro_jax.models.sharding import constrain
from miro_jax.models.student import JumpEmbedding

Array = jax.Array
REMATS = ("none", "block", "attention_mlp")
PREDICTIONS = ("velocity", "image")


@dataclasses.dataclass(frozen=True)
class RINConfig:
    """Sizes of the network; `configs/miro.py` holds the released ones."""

    latent_shape: tuple[int, int, int]  # H, W, C of the image the network sees
    caption_width: int  # of one caption token
    num_rewards: int  # 0 makes the baseline without rewards
    patch_size: int
    token_width: int
    latent_width: int
    num_latent_tokens: int
    num_blocks: int
    layers_per_block: int
    read_write_heads: int
    process_heads: int
    condition_heads: int
    condition_layers: int
    num_registers: int
    mlp_multiplier: int
    mlp_multiple: int  # SwiGLU hidden widths are rounded up to a multiple of it
    table_std: float  # standard deviation of learned tables at the start; 0.02 in the release
    sigma: float  # standard deviation of the data that preconditioning assumes
    log_variance_features: int
    # What the backward pass recomputes, for less memory and a third more work: "none", each
    # "block", or "attention_mlp": each layer, an attention and its MLP. False, True: none, block.
    remat: str | bool
    prediction: str = "velocity"  # or "image", turned into a velocity by `flow.velocity_to`
    # Of an image: how much of x_t the prediction keeps, (1 - g) F + g x_t. So grain, which no
    # bottleneck carries, is drawn as requested; g is 0 at the start. Not of the release.
    skip_gate: bool = False
    self_condition: bool = True  # see its own latent tokens of the evaluation before
    residual: str = "float32"  # dtype of the tokens between layers; "compute": the products'
    student: bool = False  # also knows where a step ends and the guidance scale, see `student`
    # The last so many rewards were added to a trained network: where such a level is missing, its
    # token is hidden, and the network is the one without it.
    added_rewards: int = 0

    def __post_init__(self):
        named = {False: "none", "False": "none", True: "block", "True": "block"}
        object.__setattr__(self, "remat", named.get(self.remat, self.remat))
        if self.remat not in REMATS:
            raise ValueError(
                f"config.model.rin.remat must be one of {', '.join(REMATS)}; got {self.remat!r}."
            )
        may_be_zero = ("num_rewards", "added_rewards", "condition_layers", "num_registers")
        for name, value in vars(self).items():
            # Features of a number, a quarter of the width, are divided by their standard deviation.
            least = 0 if name in may_be_zero else 8 if name == "latent_width" else 1
            if type(value) is int and value < least:
                raise ValueError(f"config.model.rin.{name} must be at least {least}; got {value}.")
        for name, value in {"table_std": self.table_std, "sigma": self.sigma}.items():
            if not 0 < value < math.inf:
                raise ValueError(
                    f"config.model.rin.{name} must be above 0 and finite; got {value}."
                )
        if self.residual not in ("float32", "compute"):
            raise ValueError(
                f"config.model.rin.residual must be float32 or compute; got {self.residual!r}."
            )
        if self.prediction not in PREDICTIONS:
            raise ValueError(
                f"config.model.rin.prediction must be one of {', '.join(PREDICTIONS)}; "
                f"got {self.prediction!r}."
            )
        if self.skip_gate and self.prediction != "image":
            raise ValueError(
                "config.model.rin.skip_gate must be False unless config.model.rin.prediction is "
                f"image; got {self.prediction!r}."
            )
        if self.added_rewards > self.num_rewards:
            raise ValueError(
                f"config.model.rin.added_rewards must be at most the {self.num_rewards} "
                f"conditioning rewards; got {self.added_rewards}."
            )
        height, width, _ = self.latent_shape
        if height % self.patch_size or width % self.patch_size:
            raise ValueError(
                f"latent_shape must be a multiple of patch_size {self.patch_size}; got {height} x "
                f"{width}. Change config.model.rin.patch_size or the image size."
            )


class RINBlock(nnx.Module):
    """Read the condition, read the image, process, write the image."""

    def __init__(self, config: RINConfig, *, rngs: nnx.Rngs, dtype: DTypeLike, attention: str):
        c = config
        self.recomputes_layers = c.remat == "attention_mlp"
        mlp = (c.mlp_multiplier, c.mlp_multiple)
        cross = {"rngs": rngs, "dtype": dtype, "attention": attention}
        self.read_condition = CrossAttentionBlock(
            c.latent_width, c.latent_width, c.read_write_heads, *mlp, **cross
        )
        self.read = CrossAttentionBlock(
            c.latent_width, c.token_width, c.read_write_heads, *mlp, **cross
        )
        self.process = nnx.List(
            SelfAttentionBlock(c.latent_width, c.process_heads, *mlp, "process", **cross)
            for _ in range(c.layers_per_block)
        )
        self.write = CrossAttentionBlock(
            c.token_width, c.latent_width, c.read_write_heads, *mlp, **cross
        )

    def __call__(self, x: Array, z: Array, condition: Array, mask: Array) -> tuple[Array, Array]:
        """Update image tokens x [B, N, E] and latent tokens z [B, M, D]."""
        again = nnx.remat if self.recomputes_layers else lambda call: call
        cross, itself = again(CrossAttentionBlock.__call__), again(SelfAttentionBlock.__call__)
        z = cross(self.read_condition, z, condition, mask)
        z = cross(self.read, z, x)
        for layer in self.process:
            z = itself(layer, z)
        return cross(self.write, x, z), z


class RIN(nnx.Module):
    """The velocity network with its preconditioning and log-variance head.

    Args:
      config: sizes. dtype: of matrix products. attention: its kernel, see `fused_attention`.
    """

    def __init__(
        self,
        config: RINConfig,
        *,
        rngs: nnx.Rngs,
        dtype: DTypeLike = jnp.float32,
        attention: str = "auto",
    ):
        self.config = c = config
        self.dtype, self.attention = jnp.dtype(dtype), attention
        self.residual_dtype = jnp.dtype(dtype if c.residual == "compute" else jnp.float32)
        height, width, channels = c.latent_shape
        patch = c.patch_size * c.patch_size * channels
        num_tokens = (height // c.patch_size) * (width // c.patch_size)
        options = {"rngs": rngs, "dtype": dtype}

        self.patch_in = Linear((patch, c.token_width), ("patch", "embed"), **options)
        self.patch_norm = RMSNorm(c.token_width)
        table = functools.partial(Table, std=c.table_std, rngs=rngs)
        self.token_positions = table(num_tokens, c.token_width, "tokens")
        self.latent_tokens = table(c.num_latent_tokens, c.latent_width, "latent_tokens")
        self.time = ScalarEmbedding(c.latent_width, **options)
        self.jump = JumpEmbedding(c.latent_width, **options) if c.student else None

        self.rewards = nnx.List(
            ScalarEmbedding(c.latent_width, **options) for _ in range(c.num_rewards)
        )
        self.reward_positions = (
            table(c.num_rewards, c.latent_width, "reward") if c.num_rewards else None
        )
        self.registers = table(c.num_registers, c.latent_width, "registers")
        self.caption_in = Linear((c.caption_width, c.latent_width), ("caption", "embed"), **options)
        self.condition_encoder = nnx.List(
            SelfAttentionBlock(
                c.latent_width,
                c.condition_heads,
                c.mlp_multiplier,
                c.mlp_multiple,
                "condition",
                attention=attention,
                **options,
            )
            for _ in range(c.condition_layers)
        )

        if c.self_condition:
            self.previous_norm = LayerNorm(c.latent_width)
            self.previous_mlp = GeluMLP(c.latent_width, c.mlp_multiplier, **options)
            # Starts at zero, so that self-conditioning grows during training.
            self.previous_gate = LayerNorm(c.latent_width, initial_scale=0.0)

        self.blocks = nnx.List(
            RINBlock(c, attention=attention, **options) for _ in range(c.num_blocks)
        )
        self.patch_out_norm = RMSNorm(c.token_width)
        self.patch_out = Linear((c.token_width, patch), ("embed", "patch"), **options)
        self.logvar = LogVariance(c.log_variance_features, rngs=rngs)
        if c.skip_gate:
            self.skip_norm = LayerNorm(c.latent_width, initial_scale=0.0)
            self.skip_gate = Linear((c.latent_width, 1), ("embed", "one"), **options)

    def encode_condition(
        self, caption_tokens: Array, caption_mask: Array, levels: Array | None
    ) -> tuple[Array, Array]:
        """Encode rewards and caption. The result does not depend on x_t or t.

        Args:
          caption_tokens: [B, L, caption_width] float.
          caption_mask: [B, L] bool, False for padding, which stands at the end.
          levels: [B, R] float32 in [0, 1], NaN for a missing reward: a zero vector, or no token
            where the reward was added to a trained network.

        Returns:
          condition [B, R + G + L, D] and its mask [B, R + G + L] bool.
        """
        batch, added = caption_tokens.shape[0], self.config.added_rewards
        parts, shown = [], []
        if self.reward_positions is not None:
            levels = self._check_levels(levels, batch)
            missing = jnp.isnan(levels)
            known = jnp.where(missing, 0.0, levels)
            rows = [embed(known[:, r]) for r, embed in enumerate(self.rewards)]
            rewards = jnp.where(missing[..., None], 0.0, jnp.stack(rows, axis=1))
            parts.append(rewards + self.reward_positions.table[...][None])
            if added:
                old = missing.shape[1] - added
                shown = [jnp.ones((batch, old), bool), ~missing[:, old:]]
        registers = self.registers.table[...]
        parts.append(jnp.broadcast_to(registers[None], (batch, *registers.shape)))
        parts.append(self.caption_in(caption_tokens))
        tokens = jnp.concatenate([p.astype(self.residual_dtype) for p in parts], axis=1)
        others = tokens.shape[1] - caption_mask.shape[1] - sum(one.shape[1] for one in shown)
        mask = jnp.concatenate([*shown, jnp.ones((batch, others), bool), caption_mask], axis=1)
        if added:  # hidden tokens stand behind the others, as padding does
            order = jnp.argsort(~mask, axis=1, stable=True)
            mask = jnp.take_along_axis(mask, order, axis=1)
            tokens = jnp.take_along_axis(tokens, order[..., None], axis=1)
        tokens = constrain(tokens, "batch", None, None)  # else the registers' width spreads over it
        for layer in self.condition_encoder:
            tokens = _pin(layer(tokens, mask))
        return tokens, mask

    def __call__(
        self,
        x_t: Array,
        t: Array,
        condition: Array,
        mask: Array,
        prev_latent_tokens: Array | None = None,
        jump: tuple[Array, Array] | None = None,
    ) -> tuple[Array, Array]:
        """Predict the velocity; a student, the average velocity of a step.

        Args:
          x_t: [B, H, W, C] float32, the noisy image.
          t: [B] float32 in [0, 1], 1 is noise.
          condition, mask: from `encode_condition`.
          prev_latent_tokens: [B, M, D] of the last evaluation; None for the first (zeros). Not
            looked at without `self_condition`.
          jump: of a student, the times [B] where its steps end and the guidance scales [B]; None
            is no step and no guidance.

        Returns:
          velocity [B, H, W, C] float32, latent tokens [B, M, D] float32.
        """
        c = self.config
        if x_t.shape[1:] != tuple(c.latent_shape):
            raise ValueError(f"x_t must be [B, *{c.latent_shape}]; got {x_t.shape}.")
        batch = x_t.shape[0]
        c_in, c_out = precondition(t, c.sigma)
        x = patchify(x_t * c_in[:, None, None, None], c.patch_size)  # [B, N, P P C]
        x = self.patch_norm(self.patch_in(x)) + self.token_positions.table[...][None]
        time = self.time(1.0 - t)
        if self.jump is not None:
            end, scale = (t, jnp.zeros_like(t)) if jump is None else jump
            time = time + self.jump(t - end, scale)
        time = time.astype(jnp.float32)[:, None]  # [B, 1, D]
        condition = jnp.concatenate([time.astype(condition.dtype), condition], axis=1)
        condition = constrain(condition, "batch", None, None)
        mask = jnp.concatenate([jnp.ones((batch, 1), bool), mask], axis=1)
        z = self.latent_tokens.table[...][None] + time
        if c.self_condition:
            if prev_latent_tokens is None:
                prev_latent_tokens = jnp.zeros((batch, c.num_latent_tokens, c.latent_width))
            previous = self.previous_mlp(self.previous_norm(prev_latent_tokens))
            z = z + self.previous_gate(prev_latent_tokens + previous)
        x, z = _pin(x.astype(self.residual_dtype)), _pin(z.astype(self.residual_dtype))
        for block in self.blocks:
            run = nnx.remat(RINBlock.__call__) if c.remat == "block" else RINBlock.__call__
            x, z = run(block, x, z, condition, mask)
            x, z = _pin(x), _pin(z)
        patches = self.patch_out(self.patch_out_norm(x)).astype(jnp.float32)
        prediction = unpatchify(patches, c.latent_shape, c.patch_size)
        if c.prediction == "image":
            velocity = flow.velocity_to(prediction, x_t, t)
            if c.skip_gate:
                gate = self.skip_gate(self.skip_norm(jnp.mean(z, axis=1)))  # [B, 1]
                velocity *= 1 - gate.astype(jnp.float32)[..., None, None]
        else:
            velocity = prediction * c_out
        return velocity, z.astype(jnp.float32)

    def _check_levels(self, levels: Array | None, batch: int) -> Array:
        want = (batch, self.config.num_rewards)
        if levels is None or levels.shape != want:
            got = None if levels is None else levels.shape
            raise ValueError(f"levels must be [B, R] = {want}; got {got}.")
        return levels


def _pin(tokens: Array) -> Array:
    return row_major(constrain(tokens, "batch", None, None))


def precondition(t: Array, sigma: float) -> tuple[Array, float]:
    """Return c_in `[B]` and c_out for times `[B]`, 1 is noise."""
    gamma = 1.0 - t
    c_in = jax.lax.rsqrt(jnp.square(gamma * sigma) + jnp.square(1.0 - gamma))
    return c_in, math.sqrt(1.0 + sigma**2)


def build(
    model: Any,
    latent_shape: tuple[int, int, int],
    caption_width: int,
    num_rewards: int,
    *,
    rngs: nnx.Rngs,
) -> RIN:
    """Build the network of `config.model`.

    Args:
      model: `config.model`, a ConfigDict: `dtype` (of matrix products), `attention` (its kernel)
        and `rin` (the sizes).
      latent_shape: (H, W, C) of what the image encoder makes.
      caption_width: width of one caption token.
      num_rewards: R; 0 builds the baseline without rewards.
      rngs: nnx.Rngs with a `params` stream.

    Returns:
      An `RIN`. Must be called inside `sharding.use_mesh`.
    """
    return RIN(
        rin_config(model, latent_shape, caption_width, num_rewards),
        rngs=rngs,
        dtype=jnp.dtype(model.dtype),
        attention=model.attention,
    )


def rin_config(
    model: Any, latent_shape: tuple[int, int, int], caption_width: int, num_rewards: int
) -> RINConfig:
    """Join `config.model.rin` with the sizes that encoders and rewards give."""
    return RINConfig(
        latent_shape=latent_shape,
        caption_width=caption_width,
        num_rewards=num_rewards,
        **model.rin,
    )
