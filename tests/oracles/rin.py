"""The authors' network, loss, sampler and optimizer grouping behind functions of numpy arrays.

Arrays are in our conventions: NHWC, t = 1 - gamma, levels `[B, R]` with NaN for a missing reward.
A batch is a dict: `caption_tokens` [B, L, E], `caption_mask` [B, L], `levels` [B, R], and what the
function needs of `x_t` and `t`, `x`, `noise`.
"""

import copy

import numpy as np
import torch
from miro.models.loss import FlowMatchingLoss
from miro.models.networks.rin import CADRINTextCond
from miro.models.networks.transformers import RMSNorm
from miro.models.preconditioning import FlowPrecond
from miro.models.sampler import flow_euler_sampler
from miro.models.scheduler import LinearScheduler
from miro.utils.optimizers import Lamb

from miro_jax.models.rin import RINConfig

Arrays = dict[str, np.ndarray]

# Two threads on two busy cores wait for each other: small networks take 40 times as long.
torch.set_num_threads(1)


class Oracle:
    """The authors' network and preconditioning, random weights, none of them at its start value."""

    def __init__(self, config: RINConfig, rewards: tuple[str, ...], seed: int):
        c = config
        fixed = (c.condition_heads, c.condition_layers, c.mlp_multiplier, c.mlp_multiple)
        if fixed != (16, 2, 4, 256):
            raise ValueError(
                "The release fixes condition_heads, condition_layers, mlp_multiplier and "
                f"mlp_multiple at (16, 2, 4, 256); got {fixed}."
            )
        self.config, self.rewards = config, rewards
        torch.manual_seed(seed)
        self.network = CADRINTextCond(
            data_size=c.latent_shape[0],
            data_dim=c.token_width,
            num_input_channels=c.latent_shape[2],
            num_latents=c.num_latent_tokens,
            latents_dim=c.latent_width,
            label_dim=c.caption_width,
            num_processing_layers=c.layers_per_block,
            num_blocks=c.num_blocks,
            patch_size=c.patch_size,
            num_cond_tokens=1,  # used only where condition tokens join the latent tokens
            read_write_heads=c.read_write_heads,
            compute_heads=c.process_heads,
            use_cond_rin_block=True,
            concat_cond_token_to_latents=False,
            use_self_conditioning=True,
            num_text_registers=c.num_registers,
            coherence_keys=list(rewards),
        ).eval()
        self.preconditioning = FlowPrecond(
            num_latents=c.num_latent_tokens,
            latents_dim=c.latent_width,
            sigma_data=c.sigma,
            logvar_channels=c.log_variance_features,
        ).eval()
        _perturb(self.network)
        _perturb(self.preconditioning)

    def modules(self):
        """The two modules under the prefixes of a released file."""
        return {"network": self.network, "preconditioning": self.preconditioning}

    def tensors(self) -> Arrays:
        """What a released file holds; views of the live weights."""
        return {
            f"{prefix}.{key}": value.numpy()
            for prefix, module in self.modules().items()
            for key, value in module.state_dict().items()
        }

    def num_parameters(self) -> tuple[int, int]:
        """Count the network's parameters: those that are numbers, and the booleans among them."""
        parameters = list(self.network.parameters())
        booleans = sum(p.numel() for p in parameters if p.dtype == torch.bool)
        return sum(p.numel() for p in parameters) - booleans, booleans

    def condition(self, batch: Arrays) -> dict[str, torch.Tensor]:
        """Put captions and levels under the authors' names."""
        named = {
            "text_tokens_embeddings": _tensor(batch["caption_tokens"]),
            "text_tokens_mask": _tensor(batch["caption_mask"]),
        }
        for column, name in enumerate(self.rewards):
            named[f"{name}_coherence"] = _tensor(batch["levels"][:, column])
        return named

    @torch.no_grad()
    def stages(self, batch: Arrays, previous: np.ndarray | None) -> Arrays:
        """Evaluate once at `x_t`, `t`; return what stands at each stage, in our layout."""
        network, seen = self.network, {}
        hooks = [
            network.time_embedder.register_forward_hook(_keep(seen, "time")),
            network.rin_blocks[0].register_forward_pre_hook(_keep_inputs(seen), with_kwargs=True),
            network.rin_blocks[0].register_forward_hook(_keep(seen, "first block")),
        ]
        for index, name in enumerate(self.rewards):
            embedder = network.coherence_embedder[f"{name}_coherence"]
            hooks.append(embedder.register_forward_hook(_keep(seen, f"reward {index}")))
        named = self.condition(batch) | {
            "y": _nchw(batch["x_t"]),
            "gamma": 1.0 - _tensor(batch["t"]),
            "previous_latents": None if previous is None else _tensor(previous),
        }
        c_in, c_out = self.preconditioning._compute_scaling(named)
        velocity, z, log_variance = self.preconditioning(network, named, return_logvar=True)
        for hook in hooks:
            hook.remove()
        x_block, z_block = seen.pop("first block")
        rewards = [seen.pop(f"reward {index}") for index in range(len(self.rewards))]
        seen |= {
            "rewards": torch.stack(rewards),
            "c_in": c_in.flatten(),
            "c_out": c_out.flatten(),
            "image tokens of the first block": x_block,
            "latent tokens of the first block": z_block,
            "velocity": velocity.permute(0, 2, 3, 1),
            "latent tokens": z,
            "log-variance": log_variance.flatten(),
        }
        return {key: value.numpy() for key, value in seen.items()}

    def draws(self, shape: tuple[int, ...], self_condition_rate: float, seed: int) -> Arrays:
        """Replay what the authors' loss draws with `seed` for images `shape`: t, noise, keep."""
        generator = torch.Generator().manual_seed(seed)
        batch, height, width, channels = shape
        t = torch.sigmoid(torch.normal(0.0, 1.0, (batch,), generator=generator))
        noise = torch.randn((batch, channels, height, width), generator=generator)
        keep = torch.rand((batch, 1, 1), generator=generator) > 1 - self_condition_rate
        return {
            "t": t.numpy(),
            "noise": noise.permute(0, 2, 3, 1).numpy(),
            "keep": keep.flatten().numpy(),
        }

    def loss(self, batch: Arrays, self_condition_rate: float, seed: int):
        """The authors' training loss, a scalar tensor with its graph, and the squared error."""
        loss = FlowMatchingLoss(
            LinearScheduler(),
            None,
            self_cond_rate=self_condition_rate,
            do_gradnorm_reweighting=True,
        )
        self.network.train()
        value, parts = loss(
            self.preconditioning,
            self.network,
            None,
            self.condition(batch) | {"x_0": _nchw(batch["x"])},
            global_step=0,
            generator=torch.Generator().manual_seed(seed),
        )
        return value.mean(), parts["raw_loss"]

    def parameters(self) -> Arrays:
        """The parameters that are trained, under the keys of a released file."""
        return {key: value.detach().numpy() for key, value in self._trained()}

    def gradients(self) -> Arrays:
        """Gradients of the last backward pass, under the keys of a released file."""
        return {key: value.grad.numpy() for key, value in self._trained()}

    def _trained(self):
        for prefix, module in self.modules().items():
            for name, parameter in module.named_parameters():
                if parameter.dtype != torch.bool:
                    yield f"{prefix}.{name}", parameter

    def zero_grad(self) -> None:
        """Forget the gradients of both modules."""
        self.network.zero_grad()
        self.preconditioning.zero_grad()

    def lamb(self, learning_rate: float, weight_decay: float) -> Lamb:
        """Make the authors' optimizer, grouped as their training does.

        Decay and trust ratio go to all of the preconditioning, and to the network's parameters that
        neither belong to a norm nor have `bias` in their name.
        """
        inside_norms = {
            f"{module_name}.{name}"
            for module_name, module in self.network.named_modules()
            if isinstance(module, (torch.nn.LayerNorm, torch.nn.Embedding, RMSNorm))
            for name, _ in module.named_parameters()
        }
        adapted, plain = [], []
        for name, parameter in self.network.named_parameters():
            is_plain = name in inside_norms or "bias" in name
            (plain if is_plain else adapted).append(parameter)
        adapted += self.preconditioning.parameters()
        return Lamb(
            [
                {"params": adapted, "weight_decay": weight_decay, "layer_adaptation": True},
                {"params": plain, "weight_decay": 0.0, "layer_adaptation": False},
            ],
            lr=learning_rate,
            decouple=False,
        )

    @torch.no_grad()
    def sample(
        self,
        batch: Arrays,
        empty_token: np.ndarray,
        scale: float,
        num_steps: int,
        dtype: str = "float32",
    ):
        """The authors' guided Euler sampler: all levels 1 against the empty caption and 0.

        dtype: of matrix products on a GPU; the rest and everything on a CPU is float32.
        """
        self.network.eval()
        rows = len(batch["noise"])
        names = [f"{name}_coherence" for name in self.rewards]
        empty = {
            "text_tokens_embeddings": _tensor(np.repeat(empty_token[None, None], rows, axis=0)),
            "text_tokens_mask": torch.ones((rows, 1), dtype=torch.bool),
        }
        captions = {k: v for k, v in self.condition(batch).items() if k.startswith("text_tokens")}
        images = flow_euler_sampler(
            lambda stacked: self.preconditioning(self.network, stacked),
            captions | {"y": _nchw(batch["noise"]), "previous_latents": None},
            num_steps=num_steps,
            scheduler=LinearScheduler(),
            conditioning_keys=["text_tokens"],
            uncond_tokens=empty,
            cfg_rate=scale,
            coherence_keys=names,
            coherence_values=dict.fromkeys(names, 1.0),
            uncoherence_values=dict.fromkeys(names, 0.0),
            sampling_dtype=getattr(torch, dtype),
        )
        return images.permute(0, 2, 3, 1).cpu().numpy()

    def copy(self) -> "Oracle":
        """An independent copy, to be trained."""
        return copy.deepcopy(self)


@torch.no_grad()
def _perturb(module: torch.nn.Module) -> None:
    """Move vectors and tables off their start values (0, 1, 0.1); matrices are random already."""
    for name, parameter in module.named_parameters():
        if parameter.dtype == torch.bool:
            continue
        is_table = "embedding" in name or name in ("latents", "text_registers")
        if parameter.ndim == 1 or is_table:
            parameter.add_(torch.randn_like(parameter), alpha=0.2)


def _keep(seen, name):
    def hook(_module, _inputs, output):
        seen[name] = output

    return hook


def _keep_inputs(seen):
    def hook(_module, inputs, kwargs):
        seen["image tokens"], seen["first latent tokens"] = inputs
        seen["condition"] = kwargs["cond"]

    return hook


def _tensor(array: np.ndarray) -> torch.Tensor:
    return torch.tensor(np.array(array))  # on the device of `torch.device`, if one is entered


def _nchw(array: np.ndarray) -> torch.Tensor:
    return _tensor(array).permute(0, 3, 1, 2).contiguous()
