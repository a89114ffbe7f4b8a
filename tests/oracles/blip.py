"""Hugging Face's BLIP with random weights and ImageReward's head, as functions of numpy arrays."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import BlipTextConfig, BlipTextModel, BlipVisionConfig, BlipVisionModel
from transformers.models.bert.tokenization_bert_legacy import BertTokenizerLegacy

VISION = {
    "hidden_size": 64,
    "num_attention_heads": 1,
    "num_hidden_layers": 2,
    "intermediate_size": 80,
    "image_size": 24,
    "patch_size": 8,
}

torch.set_num_threads(1)

MEAN, STD = 0.16717362830052426, 1.0333394966054072  # of ImageReward's code
WIDTHS = (1024, 128, 64, 16, 1)  # of its head
PLACES = (0, 2, 4, 6, 7)  # dropout stands between


class Oracle:
    """Both towers and the head; no weight stands at its start value.

    Args:
        vision, text: arguments of transformers' configurations.
        widths: of the head's layers.
    """

    def __init__(self, vision: dict, text: dict, widths: Sequence[int] = WIDTHS, seed: int = 0):
        vision = BlipVisionConfig(layer_norm_eps=1e-6, hidden_act="gelu", **vision)
        self.text_config = dict(text)
        text = BlipTextConfig(encoder_hidden_size=vision.hidden_size, is_decoder=True, **text)
        self.vision = BlipVisionModel(vision).eval()
        self.text = BlipTextModel(text, add_pooling_layer=False).eval()
        sizes = (text.hidden_size, *widths)
        self.head = torch.nn.Sequential(
            *(torch.nn.Linear(a, b) for a, b in zip(sizes, sizes[1:], strict=False))
        )
        generator = torch.Generator().manual_seed(seed)
        with torch.no_grad():
            for part in (self.vision, self.text, self.head):
                for name, parameter in part.named_parameters():
                    _draw(name, parameter, generator)

    def tensors(self) -> dict[str, torch.Tensor]:
        """What `ImageReward.pt` holds, what the scorer does not use included."""
        found = {}
        for key, value in self.vision.state_dict().items():
            for new, old in RENAMED:
                key = key.replace(old, new)
            found[f"blip.visual_encoder.{key}"] = value
        for key, value in self.text.state_dict().items():
            found[f"blip.text_encoder.{key}"] = value
        for place, layer in zip(PLACES, self.head, strict=True):
            for key, value in layer.state_dict().items():
                found[f"mlp.layers.{place}.{key}"] = value
        rows = self.text.config.max_position_embeddings
        found["blip.text_encoder.embeddings.position_ids"] = torch.arange(rows)[None]
        found["blip.vision_proj.weight"] = torch.ones(4, self.vision.config.hidden_size)
        found["blip.text_proj.bias"] = torch.ones(4)
        return found

    def write(self, folder: Path) -> None:
        """Write the files of ImageReward's repository; `encoder_width` is wrong there too."""
        torch.save(self.tensors(), folder / "ImageReward.pt")
        config = {"architectures": ["BertModel"], "encoder_width": 7, "add_cross_attention": True}
        (folder / "med_config.json").write_text(json.dumps(config | self.text_config))

    @torch.no_grad()
    def image_hidden(self, images: np.ndarray) -> list[np.ndarray]:
        """Return tokens [B, N, S] of normalised pictures: before each block, and at the end."""
        out = self.vision(_nchw(images), output_hidden_states=True)
        hidden = [self.vision.embeddings(_nchw(images)), *out.hidden_states]
        return [hidden[0].numpy(), hidden[2].numpy(), out.last_hidden_state.numpy()]

    @torch.no_grad()
    def text_hidden(
        self, ids: np.ndarray, mask: np.ndarray, source: np.ndarray
    ) -> list[np.ndarray]:
        """Return text tokens [B, L, D]: before the first block, after it, and at the end."""
        seen = []
        hooks = [
            layer.register_forward_hook(lambda _, __, out: seen.append(_first(out).numpy()))
            for layer in (self.text.embeddings, self.text.encoder.layer[0])
        ]
        source = torch.from_numpy(source)
        out = self.text(
            input_ids=torch.from_numpy(ids).long(),
            attention_mask=torch.from_numpy(mask).long(),
            encoder_hidden_states=source,
            encoder_attention_mask=torch.ones(source.shape[:2]).long(),
            is_decoder=False,
        )
        for hook in hooks:
            hook.remove()
        return [*seen, out.last_hidden_state.numpy()]

    @torch.no_grad()
    def rewards(self, images: np.ndarray, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Return the rewards [B] of normalised pictures and texts, layer by layer."""
        pairs = self.text_hidden(ids, mask, self.image_hidden(images)[-1])[-1][:, 0]
        return ((self.head(torch.from_numpy(pairs.copy()))[:, 0] - MEAN) / STD).numpy()

    @torch.no_grad()
    def cycle_rewards(self, images: np.ndarray, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """Return CycleReward's rewards [B]: GELUs stand between the layers of the head."""
        pairs = self.text_hidden(ids, mask, self.image_hidden(images)[-1])[-1][:, 0]
        x = torch.from_numpy(pairs.copy())
        for number, layer in enumerate(self.head):
            x = layer(x) if number == 0 else layer(torch.nn.functional.gelu(x))
        return x[:, 0].numpy()


def _draw(name: str, parameter: torch.Tensor, generator: torch.Generator) -> None:
    drawn = torch.randn(parameter.shape, generator=generator)
    fans = parameter[0].numel() if parameter.ndim == 2 and "embedding" not in name else 25
    parameter.copy_(drawn * fans**-0.5)
    if "norm" in name.lower() and name.endswith("weight"):
        parameter.add_(1)


def _first(out):
    return out[0] if isinstance(out, tuple) else out


def _nchw(images: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))


RENAMED = (  # BLIP's own code, transformers
    ("patch_embed.proj", "embeddings.patch_embedding"),
    ("cls_token", "embeddings.class_embedding"),
    ("pos_embed", "embeddings.position_embedding"),
    ("blocks", "encoder.layers"),
    ("attn.qkv", "self_attn.qkv"),
    ("attn.proj", "self_attn.projection"),
    ("norm1", "layer_norm1"),
    ("norm2", "layer_norm2"),
    ("norm.", "post_layernorm."),
)


def wordpiece_ids(vocabulary: Path, texts: Sequence[str], longest: int) -> np.ndarray:
    """Return the ids [B, longest] of BERT's tokenizer in Python, cut and padded."""
    tokenizer = BertTokenizerLegacy(str(vocabulary))
    options = {"padding": "max_length", "truncation": True, "max_length": longest}
    return np.array([tokenizer(text, **options)["input_ids"] for text in texts])


def vocabulary():
    pieces = ["[PAD]", "[unused0]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = "abcdefghijklmnopqrstuvwxyz0123456789.,!-'ß狗猫🦊🐻ﬁø"
    pieces += [
        *letters,
        *(f"##{x}" for x in letters),
        "fox",
        "snow",
        "the",
        "##tion",
        "##ing",
        "ka",
    ]
    return list(dict.fromkeys([*pieces, "##lo", "kal", "##mi", "re", "##nu", "cafe", "bar"]))
