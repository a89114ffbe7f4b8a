"""Hugging Face's CLIP with random weights, behind functions of numpy arrays (NHWC pictures)."""

import numpy as np
import torch
from transformers import CLIPConfig, CLIPModel

# Two threads on two busy cores wait for each other: small networks take 40 times as long.
torch.set_num_threads(1)


class Oracle:
    """`CLIPModel` of a `config.json`; no weight stands at its start value."""

    def __init__(self, config: dict, seed: int = 0, std: float = 0.2):
        self.model = CLIPModel(CLIPConfig(**config)).eval()
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                drawn = torch.randn(parameter.shape, generator=generator)
                fans = parameter[0].numel() if parameter.ndim > 1 else 1
                is_table = "embedding" in name and "patch" not in name
                parameter.copy_(drawn * (std if is_table or fans == 1 else fans**-0.5))
                if "norm" in name and name.endswith("weight"):
                    parameter.add_(1)
            self.model.logit_scale.fill_(3.1)

    def tensors(self) -> dict[str, np.ndarray]:
        """What a file of these weights holds."""
        return {key: value.numpy() for key, value in self.model.state_dict().items()}

    @torch.no_grad()
    def hidden(self, images: np.ndarray) -> list[np.ndarray]:
        """Return the tokens `[B, N, D]` before the first block and after each."""
        out = self.model.vision_model(_nchw(images), output_hidden_states=True)
        return [x.numpy() for x in out.hidden_states]

    @torch.no_grad()
    def image_features(self, images: np.ndarray) -> np.ndarray:
        """Read normalised pictures `[B, H, W, 3]` into `[B, E]`, any length."""
        return self.model.get_image_features(_nchw(images)).pooler_output.numpy()

    @torch.no_grad()
    def text_features(self, ids: np.ndarray, mask: np.ndarray | None = None) -> np.ndarray:
        """Read text `[B, L]` into `[B, E]`, any length."""
        mask = None if mask is None else torch.from_numpy(mask)
        out = self.model.get_text_features(torch.from_numpy(ids).long(), attention_mask=mask)
        return out.pooler_output.numpy()

    def scale(self) -> float:
        """exp(logit_scale)."""
        return float(self.model.logit_scale.detach().exp())


def opened(tensors: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Rename and pack weights of Hugging Face's layout into OpenAI's, as open_clip saves them."""
    out = {}
    for key, value in tensors.items():
        if "q_proj" in key:
            packed = [tensors[key.replace("q_proj", f"{n}_proj")] for n in "qkv"]
            key, value = key.replace("q_proj.", "in_proj_"), np.concatenate(packed)
        elif "k_proj" in key or "v_proj" in key or "position_ids" in key:
            continue
        for old, new in RENAMED:
            key = key.replace(old, new)
        out[key] = value.T if key in ("visual.proj", "text_projection") else value
    return out


RENAMED = (
    ("visual_projection.weight", "visual.proj"),
    ("text_projection.weight", "text_projection"),
    ("vision_model.embeddings.class_embedding", "visual.class_embedding"),
    ("vision_model.embeddings.position_embedding.weight", "visual.positional_embedding"),
    ("vision_model.embeddings.patch_embedding", "visual.conv1"),
    ("vision_model.encoder.layers", "visual.transformer.resblocks"),
    ("vision_model.pre_layrnorm", "visual.ln_pre"),
    ("vision_model.post_layernorm", "visual.ln_post"),
    ("text_model.embeddings.position_embedding.weight", "positional_embedding"),
    ("text_model.embeddings.token_embedding", "token_embedding"),
    ("text_model.encoder.layers", "transformer.resblocks"),
    ("text_model.final_layer_norm", "ln_final"),
    ("self_attn", "attn"),
    ("layer_norm1", "ln_1"),
    ("layer_norm2", "ln_2"),
    ("mlp.fc1", "mlp.c_fc"),
    ("mlp.fc2", "mlp.c_proj"),
)


def _nchw(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
