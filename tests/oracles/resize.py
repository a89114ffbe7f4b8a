"""How the published scorers resize and crop, by their own libraries. torchvision's transforms are
said again in the terms of Pillow and torch, as torchvision has no build for processors."""

import numpy as np
import torch
from PIL import Image
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil

torch.set_num_threads(1)


def hugging_face(picture: Image.Image, size: int) -> np.ndarray:
    """Resize and crop as CLIPImageProcessor does; [size, size, 3] uint8."""
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        do_rescale=False,
        do_normalize=False,
    )
    return processor(images=picture, return_tensors="np")["pixel_values"][0].transpose(1, 2, 0)


def normalized(picture: Image.Image) -> np.ndarray:
    """All of CLIPImageProcessor at 224; [224, 224, 3] float32."""
    return CLIPImageProcessorPil()(images=picture, return_tensors="np")["pixel_values"][
        0
    ].transpose(1, 2, 0)


def openai(picture: Image.Image, size: int) -> np.ndarray:
    """Resize and crop as OpenAI's `clip` does: torchvision on a Pillow picture; uint8."""
    width, height = _resized(*picture.size, size)
    if picture.size != (width, height):
        picture = picture.resize((width, height), Image.Resampling.BICUBIC)
    left, top = int(round((width - size) / 2.0)), int(round((height - size) / 2.0))
    return np.asarray(picture.crop((left, top, left + size, top + size)).convert("RGB"))


def hpsv2(picture: Image.Image, size: int) -> np.ndarray:
    """Resize and crop as hpsv2 does: torchvision on a tensor in [0, 1]; float32."""
    x = torch.from_numpy(np.array(picture.convert("RGB"))).permute(2, 0, 1).float().div(255)
    width, height = _resized(*picture.size, size)
    if picture.size != (width, height):
        x = torch.nn.functional.interpolate(
            x[None], (height, width), mode="bicubic", align_corners=False, antialias=True
        )[0]
    left, top = int(round((width - size) / 2.0)), int(round((height - size) / 2.0))
    return x[:, top : top + size, left : left + size].permute(1, 2, 0).numpy()


def _resized(width: int, height: int, size: int) -> tuple[int, int]:
    short, long = sorted((width, height))
    new = int(size * long / short)
    return (size, new) if width <= height else (new, size)
