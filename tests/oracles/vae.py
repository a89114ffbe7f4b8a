"""The autoencoder of diffusers behind functions of numpy arrays; pictures are NHWC."""

import contextlib
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL
from PIL import Image

# Two threads on two busy cores wait for each other.
torch.set_num_threads(1)

SDXL = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
}


def make(seed: int, **sizes) -> AutoencoderKL:
    """Make an autoencoder in which every parameter is random, none at its start value."""
    levels = len(sizes["block_out_channels"])
    network = AutoencoderKL(
        down_block_types=["DownEncoderBlock2D"] * levels,
        up_block_types=["UpDecoderBlock2D"] * levels,
        **sizes,
    ).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in network.parameters():
            value.normal_(0.0, 0.3, generator=generator)
            if value.ndim > 1:
                value.div_(0.3 * value[0].numel() ** 0.5)
        for module in network.modules():
            if isinstance(module, torch.nn.GroupNorm):
                module.weight.add_(1.0)
    return network


def save(network: AutoencoderKL, folder: Path | str) -> None:
    """Write `config.json` and `diffusion_pytorch_model.safetensors`."""
    network.save_pretrained(folder)


def encode(network: AutoencoderKL, images: np.ndarray) -> dict[str, np.ndarray]:
    """Encode pictures [B, H, W, 3] float32 in [-1, 1].

    Returns:
        "conv_in", "level0", "middle" (activations, NHWC), "mean", "std" and "log_variance".
    """
    half = network.encoder
    places = {"conv_in": half.conv_in, "level0": half.down_blocks[0], "middle": half.mid_block}
    with torch.no_grad(), _watched(places) as stages:
        posterior = network.encode(_to_torch(images)).latent_dist
    found = {"mean": posterior.mean, "std": posterior.std, "log_variance": posterior.logvar}
    return {name: _to_numpy(value) for name, value in {**stages, **found}.items()}


def decode(network: AutoencoderKL, latents: np.ndarray) -> dict[str, np.ndarray]:
    """Decode image latents [B, h, w, 4] float32.

    Returns:
        "conv_in", "middle", "level0", "level1" (activations, NHWC) and "pictures".
    """
    half = network.decoder
    places = {"conv_in": half.conv_in, "middle": half.mid_block}
    places |= {f"level{i}": half.up_blocks[i] for i in range(2)}
    with torch.no_grad(), _watched(places) as stages:
        pictures = network.decode(_to_torch(latents)).sample
    return {name: _to_numpy(value) for name, value in {**stages, "pictures": pictures}.items()}


def prepare(image: np.ndarray, size: int) -> np.ndarray:
    """Crop and resize [H, W, 3] uint8 as torchvision's CenterCrop and Resize do on Pillow images.

    Returns:
        [size, size, 3] float32 in [-1, 1].
    """
    picture = Image.fromarray(image)
    side = min(picture.size)
    top = int(round((picture.height - side) / 2.0))
    left = int(round((picture.width - side) / 2.0))
    picture = picture.crop((left, top, left + side, top + side))
    picture = picture.resize((size, size), Image.Resampling.BILINEAR)
    return (torch.from_numpy(np.array(picture)).float().div(255) * 2 - 1).numpy()


def convolve(x: np.ndarray, kernel: np.ndarray, double: bool) -> np.ndarray:
    """Convolve [B, H, W, C] float64 with [3, 3, C, O], after repeating each pixel or not."""
    x = _to_torch(x)
    if double:
        x = torch.nn.functional.interpolate(x, scale_factor=2.0, mode="nearest")
    kernel = torch.from_numpy(kernel).permute(3, 2, 0, 1)
    return _to_numpy(torch.nn.functional.conv2d(x, kernel, padding=1))


@contextlib.contextmanager
def _watched(places: dict[str, torch.nn.Module]):
    stages = {}

    def watch(name):
        def hook(_module, _inputs, output):
            stages[name] = output

        return hook

    hooks = [module.register_forward_hook(watch(name)) for name, module in places.items()]
    yield stages
    for hook in hooks:
        hook.remove()


def _to_torch(x: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def _to_numpy(x: torch.Tensor) -> np.ndarray:
    return x.numpy().transpose(0, 2, 3, 1)
