"""A folder in the released layout with the authors' modules, and the authors' pipeline on it."""

import json
from pathlib import Path
from unittest import mock

import diffusers
import numpy as np
import torch
from miro.models.postprocessing import VAEDecoderPostProcessing
from miro.models.preprocessing import PrecomputedSDLatentPreconditioning
from miro.pipeline import MiroPipeline
from safetensors.torch import save_file

from tests.oracles.rin import Oracle

# The smallest VAE with the latents of SDXL's: the authors' pipeline always builds one.
SMALL_VAE = {
    "down_block_types": ["DownEncoderBlock2D"],
    "up_block_types": ["UpDecoderBlock2D"],
    "block_out_channels": [8],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "latent_channels": 4,
}


def settings(oracle: Oracle) -> dict:
    """What a released config.json says of this network, as far as the authors' code reads it."""
    c = oracle.config
    return {
        "network": {
            "data_size": c.latent_shape[0],
            "data_dim": c.token_width,
            "num_input_channels": c.latent_shape[2],
            "num_latents": c.num_latent_tokens,
            "latents_dim": c.latent_width,
            "label_dim": c.caption_width,
            "num_processing_layers": c.layers_per_block,
            "num_blocks": c.num_blocks,
            "patch_size": c.patch_size,
            "num_cond_tokens": 1,
            "read_write_heads": c.read_write_heads,
            "compute_heads": c.process_heads,
            "use_cond_rin_block": True,
            "concat_cond_token_to_latents": False,
            "use_self_conditioning": True,
            "num_text_registers": c.num_registers,
            "coherence_keys": list(oracle.rewards),
        },
        "preconditioning": {
            "num_latents": c.num_latent_tokens,
            "latents_dim": c.latent_width,
            "sigma_data": c.sigma,
            "logvar_channels": c.log_variance_features,
        },
        "data_preprocessing": {"channel_wise_normalisation": True},
        "postprocessing": {"channel_wise_normalisation": True},
        "scheduler": {"start": 1, "end": 0, "clip_min": 1e-9},
        "coherence_keys": list(oracle.rewards),
        "data_resolution": c.latent_shape[0],
    }


def save_release(folder: Path, oracle: Oracle, seed: int = 0) -> np.ndarray:
    """Write the three files as the authors do; return the embedding of the empty prompt."""
    folder.mkdir(parents=True, exist_ok=True)
    modules = oracle.modules() | {
        "data_preprocessing": PrecomputedSDLatentPreconditioning(channel_wise_normalisation=True),
        "postprocessing": VAEDecoderPostProcessing(
            torch.nn.Identity(), channel_wise_normalisation=True
        ),
    }
    save_file(
        {
            f"{prefix}.{key}": value.contiguous()
            for prefix, module in modules.items()
            for key, value in module.state_dict().items()
        },
        folder / "model.safetensors",
    )
    width = oracle.config.caption_width
    empty = np.random.default_rng(seed).normal(size=(1, width)).astype(np.float32)
    np.save(folder / "uncond_embedding.npy", empty)
    (folder / "config.json").write_text(json.dumps(settings(oracle)))
    return empty


class Authors:
    """The authors' pipeline of a folder, with a small random VAE in place of SDXL's."""

    def __init__(self, folder: Path):
        vae = diffusers.AutoencoderKL(**SMALL_VAE)
        loaded = mock.patch.object(diffusers.AutoencoderKL, "from_pretrained", lambda _: vae)
        with loaded:
            self.pipeline = MiroPipeline.from_pretrained(str(folder))

    def tensors(self) -> dict[str, np.ndarray]:
        """Network and preconditioning as they were loaded."""
        return {
            f"{prefix}.{key}": value.numpy()
            for prefix in ("network", "preconditioning")
            for key, value in getattr(self.pipeline, prefix).state_dict().items()
        }

    def sample(self, embeds, mask, noise, targets, negative_targets, scale, num_steps):
        """Latents [B, h, w, C] of a call with these embeddings and this noise."""
        pipe = self.pipeline
        pipe._ensure_text_encoder = lambda: None
        pipe._encode_prompts = lambda *_: (torch.tensor(embeds), torch.tensor(mask))
        seen = []
        pipe.postprocessing.forward = lambda z: seen.append(z) or np.zeros((len(z), 8, 8, 3))
        drawn = torch.tensor(noise).permute(0, 3, 1, 2)
        # On a CPU the authors' sampler runs float16 under a CUDA autocast, which does nothing.
        with (
            mock.patch.object(torch, "randn", lambda *_, **__: drawn),
            mock.patch.object(torch.cuda, "is_bf16_supported", lambda: False),
        ):
            pipe(
                [""] * len(noise),
                reward_targets=targets,
                negative_reward_targets=negative_targets,
                guidance_scale=scale,
                num_inference_steps=num_steps,
                output_type="numpy",
            )
        return seen[0].permute(0, 2, 3, 1).numpy()
