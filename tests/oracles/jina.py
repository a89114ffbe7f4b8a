"""jina-clip-v2 with random weights: EVA-02 written out in PyTorch, Hugging Face's text tower.

The picture tower was compared with `timm.models.eva.Eva` (see benchmarks/parity_jina.py), which
needs torchvision and is therefore no part of the tests.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional
from transformers import JinaEmbeddingsV3Config, JinaEmbeddingsV3Model

from tests.oracles.jina_tokenizer import PIECES

torch.set_num_threads(1)

RANK, ALPHA = 4, 8  # a scale that is not 1
KWARGS = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "vocab_size": PIECES + 10,
    "rotary_emb_base": 500.0,
    "lora_adaptations": ["text-matching", "retrieval.query"],
    "lora_alpha": ALPHA,
    "lora_rank": RANK,
}
CONFIG = {
    "add_projections": False,
    "logit_scale_init_value": 2.6592,
    "text_config": {
        "default_lora_task": "retrieval.query",
        "hf_model_config_kwargs": KWARGS,
        "hf_model_name_or_path": "jinaai/jina-embeddings-v3",
        "pooler_type": "mean_pooler",
    },
    "vision_config": {
        "width": 32,
        "layers": 2,
        "head_width": 8,
        "image_size": 30,
        "patch_size": 7,
        "mlp_ratio": 2.6667,
        "pt_hw_seq_len": 3,
        "intp_freq": True,
    },
}


class Vision:
    """EVA-02 of a `vision_config`, by its published names."""

    def __init__(self, config: dict, generator: torch.Generator):
        self.config = c = config
        width, hidden = c["width"], int(c["width"] * c["mlp_ratio"])
        self.grid = c["image_size"] // c["patch_size"]
        self.heads = width // c["head_width"]
        shapes = {
            "cls_token": (1, 1, width),
            "pos_embed": (1, self.grid**2 + 1, width),
            "patch_embed.proj.weight": (width, 3, c["patch_size"], c["patch_size"]),
            "patch_embed.proj.bias": (width,),
        }
        for i in range(c["layers"]):
            block = {f"attn.{n}_proj.weight": (width, width) for n in "qkv"}
            block |= {"attn.q_bias": (width,), "attn.v_bias": (width,)}
            for name, (inputs, outputs) in {
                "attn.proj": (width, width),
                "mlp.w1": (width, hidden),
                "mlp.w2": (width, hidden),
                "mlp.w3": (hidden, width),
            }.items():
                block |= {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
            norms = {"norm1": width, "norm2": width, "attn.inner_attn_ln": width}
            for name, size in (norms | {"mlp.ffn_ln": hidden}).items():
                block |= {f"{name}.weight": (size,), f"{name}.bias": (size,)}
            shapes |= {f"blocks.{i}.{key}": shape for key, shape in block.items()}
        shapes |= {"norm.weight": (width,), "norm.bias": (width,)}
        self.weights = {k: _draw(k, shape, generator) for k, shape in shapes.items()}

    def arrays(self) -> dict[str, np.ndarray]:
        """What a file of this tower holds."""
        return {key: value.numpy() for key, value in self.weights.items()}

    @torch.no_grad()
    def hidden(self, images: np.ndarray) -> list[np.ndarray]:
        """Return tokens [B, N, D] before the first block and after each."""
        c, w = self.config, self.weights
        side = self.grid * c["patch_size"]
        x = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))[..., :side, :side]
        x = functional.conv2d(
            x, w["patch_embed.proj.weight"], w["patch_embed.proj.bias"], stride=c["patch_size"]
        )
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([w["cls_token"].expand(len(x), -1, -1), x], 1) + w["pos_embed"]
        turns, out = self._turns(), [x]
        for i in range(c["layers"]):
            out.append(x := self._block(x, f"blocks.{i}", turns))
        return [x.numpy() for x in out]

    @torch.no_grad()
    def features(self, images: np.ndarray) -> np.ndarray:
        """Read normalised pictures [B, H, W, 3] into [B, D]."""
        x = torch.from_numpy(self.hidden(images)[-1])
        return self._norm(x, "norm")[:, 0].numpy()

    def _turns(self) -> torch.Tensor:
        """Complex numbers of length 1, [N - 1, head width / 2]."""
        c = self.config
        count = c["head_width"] // 4
        frequencies = 10000.0 ** -(torch.arange(count, dtype=torch.float64) / count)
        places = torch.arange(self.grid, dtype=torch.float64)
        if c["intp_freq"]:
            places = places / self.grid * c["pt_hw_seq_len"]
        rows, columns = torch.meshgrid(places, places, indexing="ij")
        angles = [axis.flatten()[:, None] * frequencies for axis in (rows, columns)]
        return torch.polar(torch.ones(1, dtype=torch.float64), torch.cat(angles, 1))

    def _block(self, x: torch.Tensor, key: str, turns: torch.Tensor) -> torch.Tensor:
        y = self._norm(x, f"{key}.norm1")
        q, k, v = (
            functional.linear(
                y,
                self.weights[f"{key}.attn.{n}_proj.weight"],
                self.weights.get(f"{key}.attn.{n}_bias"),
            )
            .unflatten(-1, (self.heads, -1))
            .transpose(1, 2)
            for n in "qkv"
        )
        q, k = _rotated(q, turns), _rotated(k, turns)
        y = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        x = x + self._linear(self._norm(y, f"{key}.attn.inner_attn_ln"), f"{key}.attn.proj")
        y = self._norm(x, f"{key}.norm2")
        y = functional.silu(self._linear(y, f"{key}.mlp.w1")) * self._linear(y, f"{key}.mlp.w2")
        return x + self._linear(self._norm(y, f"{key}.mlp.ffn_ln"), f"{key}.mlp.w3")

    def _linear(self, x: torch.Tensor, key: str) -> torch.Tensor:
        return functional.linear(x, self.weights[f"{key}.weight"], self.weights[f"{key}.bias"])

    def _norm(self, x: torch.Tensor, key: str) -> torch.Tensor:
        weight, bias = self.weights[f"{key}.weight"], self.weights[f"{key}.bias"]
        return functional.layer_norm(x, x.shape[-1:], weight, bias, 1e-6)


class Text:
    """`JinaEmbeddingsV3Model` of `hf_model_config_kwargs`, whose weights are LoRA's, merged."""

    def __init__(self, config: dict, generator: torch.Generator):
        self.config = config
        options = {k: v for k, v in config.items() if not k.startswith(("lora", "rotary"))}
        rotary = {"rope_type": "default", "rope_theta": config["rotary_emb_base"]}
        self.model = JinaEmbeddingsV3Model(
            JinaEmbeddingsV3Config(**options, rope_parameters=rotary), add_pooling_layer=False
        ).eval()
        with torch.no_grad():
            for name, parameter in self.model.named_parameters():
                parameter.copy_(_draw(name, tuple(parameter.shape), generator))

    def arrays(self, adapters: int = 1, seed: int = 0) -> dict[str, np.ndarray]:
        """What a file of this tower holds, as arrays; see `tensors`."""
        found = self.tensors(torch.Generator().manual_seed(seed), adapters)
        return {key: value.numpy() for key, value in found.items()}

    def tensors(self, generator: torch.Generator, adapters: int = 1) -> dict[str, torch.Tensor]:
        """Name the weights as published; the last adapter is the one that was merged."""
        state = self.model.state_dict()
        found = {}
        for key, value in state.items():
            if "q_proj" in key:
                value = torch.cat([state[key.replace("q_proj", f"{n}_proj")] for n in "qkv"])
            elif "k_proj" in key or "v_proj" in key:
                continue
            for old, new in RENAMED:
                key = key.replace(old, new)
            if "norm" in key or "emb_ln" in key or key.endswith("bias"):
                found[key] = value
            else:
                found |= _unmerged(key.removesuffix(".weight"), value, adapters, generator)
        return found

    @torch.no_grad()
    def hidden(self, ids: np.ndarray) -> list[np.ndarray]:
        """Return tokens [B, L, D] before the first block and after each; padding is 1."""
        ids = torch.from_numpy(ids).long()
        out = self.model(input_ids=ids, attention_mask=ids != 1, output_hidden_states=True)
        return [x.numpy() for x in out.hidden_states]

    def features(self, ids: np.ndarray) -> np.ndarray:
        """Read text [B, L] into [B, D], the mean over what is no padding."""
        mask = (ids != 1)[..., None]
        return (self.hidden(ids)[-1] * mask).sum(1) / mask.sum(1)


class Oracle:
    """Both towers of a `config.json` and the factor."""

    def __init__(self, config: dict, seed: int = 0):
        self.config = config
        self.generator = torch.Generator().manual_seed(seed)
        self.vision = Vision(config["vision_config"], self.generator)
        self.text = Text(config["text_config"]["hf_model_config_kwargs"], self.generator)
        self.logit_scale = 3.3

    def tensors(self) -> dict[str, torch.Tensor]:
        """What the weight file holds."""
        names = self.config["text_config"]["hf_model_config_kwargs"]["lora_adaptations"]
        found = {"logit_scale": torch.tensor(self.logit_scale)}
        found |= {f"vision_model.{k}": v for k, v in self.vision.weights.items()}
        text = self.text.tensors(self.generator, len(names))
        return found | {f"text_model.transformer.roberta.{k}": v for k, v in text.items()}

    def write(self, folder: Path) -> None:
        """Write the weights as a pickle, and config.json."""
        torch.save(self.tensors(), folder / "pytorch_model.bin")
        (folder / "config.json").write_text(json.dumps(self.config))

    def scores(self, images: np.ndarray, texts: Sequence[np.ndarray]) -> np.ndarray:
        """Return the scores [B] of normalised pictures and ids without padding."""
        u = self.vision.features(images)
        v = np.concatenate([self.text.features(ids[None]) for ids in texts])
        lengths = np.linalg.norm(u, axis=1) * np.linalg.norm(v, axis=1)
        return np.exp(self.logit_scale) * (u * v).sum(1) / lengths


def _draw(name: str, shape: tuple[int, ...], generator: torch.Generator) -> torch.Tensor:
    drawn = torch.randn(shape, generator=generator)
    is_kernel = len(shape) > 1 and not any(x in name for x in ("embedding", "embed", "token"))
    drawn = drawn * (drawn[0].numel() ** -0.5 if is_kernel or "proj.weight" in name else 0.2)
    is_norm = "norm" in name.lower() or "_ln" in name
    return drawn + 1 if is_norm and name.endswith("weight") else drawn


def _rotated(x: torch.Tensor, turns: torch.Tensor) -> torch.Tensor:
    """Turn neighbouring channels of all tokens but the first; [B, A, N, H]."""
    pairs = torch.view_as_complex(x[:, :, 1:].double().unflatten(-1, (-1, 2)))
    turned = torch.view_as_real(pairs * turns).flatten(-2).float()
    return torch.cat([x[:, :, :1], turned], dim=2)


def _unmerged(
    key: str, value: torch.Tensor, adapters: int, generator: torch.Generator
) -> dict[str, torch.Tensor]:
    rows, columns = value.shape
    is_table = "embeddings" in key
    shapes = [(rows, RANK), (RANK, columns)] if is_table else [(RANK, columns), (rows, RANK)]
    a, b = (0.3 * torch.randn((adapters, *shape), generator=generator) for shape in shapes)
    change = (a[-1] @ b[-1] if is_table else b[-1] @ a[-1]) * (ALPHA / RANK)
    place = f"{key}.parametrizations.weight"
    return {f"{place}.original": value - change, f"{place}.0.lora_A": a, f"{place}.0.lora_B": b}


RENAMED = (
    ("embeddings.LayerNorm", "emb_ln"),
    ("layers.", "encoder.layers."),
    ("self_attn.q_proj", "mixer.Wqkv"),
    ("self_attn.o_proj", "mixer.out_proj"),
    ("post_attention_layernorm", "norm1"),
    ("post_mlp_layernorm", "norm2"),
)


def vision(config: dict, seed: int) -> Vision:
    """Make the picture tower alone."""
    return Vision(config, torch.Generator().manual_seed(seed))


def text(config: dict, seed: int) -> Text:
    """Make the text tower alone."""
    return Text(config, torch.Generator().manual_seed(seed))
