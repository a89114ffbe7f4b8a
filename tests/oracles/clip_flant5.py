"""CLIP-FlanT5 put together from transformers' T5 and CLIP, random weights; and its way to a score.

The steps from pictures and captions to scores follow t2v-metrics: its own model class needs an
older transformers.
"""

from pathlib import Path

import numpy as np
import torch
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModel, T5Tokenizer

from tests.oracles import t5

SIDE = 28
VISION = {
    "hidden_size": 16,
    "intermediate_size": 20,
    "num_hidden_layers": 4,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 7,
    "hidden_act": "quick_gelu",
}
IMAGE = -200  # stands for the picture among ids
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
QUESTION = 'Does this figure show "%s"? Please answer yes or no.'
CAPTIONS = [
    "a red cat on the grass",
    "",
    "two dogs, one small and one large, play with an old ball in the garden " * 3,
    "Café {0} with 100 % 'quotes' \"here\" and 🐱",
]
CORPUS = [SYSTEM, QUESTION, "USER: ASSISTANT: Yes No", *CAPTIONS, "Yes"] * 8


class Oracle:
    """The model in transformers' classes."""

    def __init__(self, language: dict[str, int], seed: int):
        self.t5 = t5.Oracle(language, seed)
        width = language["d_model"]
        self.vision = CLIPVisionModel(CLIPVisionConfig(**VISION)).eval()
        self.projector = torch.nn.Sequential(
            torch.nn.Linear(VISION["hidden_size"], width),
            torch.nn.GELU(),
            torch.nn.Linear(width, width),
        )
        for module in (self.vision, self.projector):
            t5.redraw(module, 0.2)

    def config(self) -> dict:
        """What the published config.json says."""
        return self.t5.config() | {
            "model_type": "clip_t5",
            "architectures": ["CLIPT5ForConditionalGeneration"],
            "mm_hidden_size": VISION["hidden_size"],
            "mm_projector_type": "mlp2x_gelu",
            "mm_vision_select_feature": "patch",
            "mm_vision_select_layer": -2,
            "mm_vision_tower": "openai/clip-vit-large-patch14-336",
        }

    def vision_config(self) -> dict:
        """What the config.json of the CLIP model says."""
        return {"model_type": "clip", "projection_dim": 8, "vision_config": VISION}

    def tensors(self) -> dict[str, np.ndarray]:
        """What the published file holds."""
        found = self.t5.tensors()
        for prefix, module in (
            ("vision_tower.vision_tower.vision_model", self.vision),
            ("mm_projector", self.projector),
        ):
            found |= {f"{prefix}.{k}": v.numpy() for k, v in module.state_dict().items()}
        return found

    @torch.no_grad()
    def tokens(self, pixels: np.ndarray) -> np.ndarray:
        """Vision tokens [B, N, W] of normalised pictures [B, 3, S, S]."""
        states = self.vision(torch.from_numpy(pixels), output_hidden_states=True).hidden_states
        return states[-2][:, 1:].numpy()

    @torch.no_grad()
    def logits(self, pixels: np.ndarray, prompts: list[list[int]], answer: list[int]) -> np.ndarray:
        """Logits [B, K, V] of the answer's places; prompts hold IMAGE where the picture stands."""
        images = self.projector(torch.from_numpy(self.tokens(pixels)))
        longest = max(map(len, prompts))
        rows, shown = [], []
        for image, prompt in zip(images, prompts, strict=True):
            padded = prompt + [0] * (longest - len(prompt))
            place = prompt.index(IMAGE)
            before, after = (
                self.t5.model.shared(torch.tensor(ids))
                for ids in (padded[:place], padded[place + 1 :])
            )
            rows.append(torch.cat([before, image, after]))
            keep = [token != 0 for token in padded]
            shown.append(keep[:place] + [True] * len(image) + keep[place + 1 :])
        return self.t5.model(
            inputs_embeds=torch.stack(rows),
            attention_mask=torch.tensor(shown).long(),
            labels=torch.tensor([answer] * len(prompts)),
        ).logits.numpy()

    @torch.no_grad()
    def scores(
        self, pixels: np.ndarray, prompts: list[list[int]], answer: list[int], classes: int
    ) -> np.ndarray:
        """exp(-mean cross-entropy) of the answer over the first `classes` words, [B]."""
        logits = torch.from_numpy(self.logits(pixels, prompts, answer))[..., :classes]
        loss = torch.nn.CrossEntropyLoss()
        return np.array([(-loss(row, torch.tensor(answer))).exp().item() for row in logits])


def prepare(images: list[np.ndarray], quality: int | None = None) -> np.ndarray:
    """Pictures [H, W, 3] uint8 as the network reads them, [B, 3, S, S] float32."""
    processor = CLIPImageProcessorPil(
        size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}
    )
    color = tuple(int(mean * 255) for mean in processor.image_mean)
    squares = [pad(Image.fromarray(image), color) for image in images]
    return processor(squares, return_tensors="np")["pixel_values"].astype(np.float32)


def pad(picture: Image.Image, color: tuple[int, int, int]) -> Image.Image:
    """Paste a picture into the middle of a square."""
    side = max(picture.size)
    square = Image.new("RGB", (side, side), color)
    square.paste(picture, ((side - picture.width) // 2, (side - picture.height) // 2))
    return square


def prompts(folder: Path, captions: list[str], longest: int = 2048) -> list[list[int]]:
    """Ids of the whole prompts, IMAGE where the picture stands."""
    tokenizer = T5Tokenizer.from_pretrained(folder)
    found = []
    for caption in captions:
        text = f"{SYSTEM} USER: <image>\n{QUESTION % caption} ASSISTANT: "
        before, after = (tokenizer(part).input_ids for part in text.split("<image>"))
        found.append([*before, IMAGE, *after][:longest])
    return found


def answer(folder: Path) -> tuple[list[int], int]:
    """Ids of the answer, and how many tokens the tokenizer has."""
    tokenizer = T5Tokenizer.from_pretrained(folder)
    return tokenizer("Yes").input_ids, len(tokenizer)
