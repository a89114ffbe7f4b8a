"""VQAScore: how surely CLIP-FlanT5 answers Yes to the question whether an image shows its caption.

    score = exp(mean_k log P(label_k | image, question, label_<k)),   labels = ("Yes", end)
          = sqrt(P(Yes) P(end | Yes))

The score is that of the package t2v-metrics, as MIRO's annotation calls it: not P(Yes) alone. The
image is padded to a square with CLIP's mean colour and resized; the text before and the text
after the image are two texts to the tokenizer, each with an end token of its own. MIRO cleans
captions (see `clean_caption`) and passes images through a JPEG file of quality 75, which
`jpeg_quality=75` does too; it is off by default, as it degrades the image.

Source: Lin et al. 2024 (arXiv 2404.01291); t2v-metrics 3.0; MIRO 547003a0, `utils/rewards`.

Letters: B images, H W image, S its side in the network, N image tokens, W their width.
"""

import io
import re
from collections.abc import Sequence

import jax
import numpy as np
from PIL import Image

from miro_jax.pretrained.card import TextCost
from miro_jax.pretrained.networks import clip, clip_flant5, clip_flant5_keys
from miro_jax.pretrained.networks.tower import OnDevice, Tower
from miro_jax.pretrained.weights import hub
from miro_jax.pretrained.weights.tokenizer import (
    by_length,
    check_vocabulary,
    encode_texts,
    load_tokenizer,
    vocabulary,
)
from miro_jax.rewards import base
from miro_jax.rewards.card import Card, Licence

VARIANTS = {"xl": 2048, "xxl": 4096}  # width of the T5
TOKENIZER = "google/flan-t5-{}"
VISION = "openai/clip-vit-large-patch14-336"  # where the weights do not name it

BEFORE = (
    "A chat between a curious user and an artificial intelligence assistant. The assistant gives "
    "helpful, detailed, and polite answers to the user's questions. USER: "
)
AFTER = '\nDoes this figure show "{}"? Please answer yes or no. ASSISTANT: '
ANSWER = "Yes"
MAX_TOKENS = 2048  # of the whole prompt, the image counted as one
STEP = 64  # tokens; what follows the image is padded to a multiple of it
ROWS = 16  # pairs in one run, per device of the mesh axis `data`
PADDING = 0


def _card(variant: str, parameters: float, text: TextCost, work_mb: float, uncut: float) -> Card:
    note = "model card; the file holds a tower of OpenAI's CLIP too"
    return Card(
        name="vqa",
        version=f"clip-flant5-{variant}",
        judges="agreement, by asking",
        weights=f"zhiqiulin/clip-flant5-{variant}",
        licences=(Licence("zhiqiulin/clip-flant5-xl, -xxl", "Apache-2.0", True, note),),
        parameters=parameters,
        image_gflop=366,
        text=text,
        work_mb=work_mb,
        rows=ROWS,
        read_mb=38,
        feature_mb=1.18,
        uncut=uncut,
        scale="0 to 1",
        preprocessing="padded to a square, bicubic to 336",
        synthetic_form="long",
    )


_CARDS = {
    "xxl": _card("xxl", 11.447e9, TextCost(6811, 11.4, STEP), 398, 0.02),
    "xl": _card("xl", 3.147e9, TextCost(1739, 3.0, STEP), 196, 0.04),
}
CARDS = tuple(_CARDS.values())

COLOR = tuple(int(255 * mean) for mean in clip.MEAN)
BAND = 1024  # rows; the padded image need not fit into memory as a whole
LONGEST_SIDE = 16384  # pixels; the time grows with its square


class VQAScore(base.Judge):
    """Judge images by CLIP-FlanT5.

    Args:
      variant: "xl" or "xxl"; MIRO used xxl.
      weights: hub id, or a folder in the same layout: config.json, weights in safetensors or
        pickles, in one file or several; None takes that of the variant's authors.
      tokenizer: hub id or folder of the T5's tokenizer.json; None takes `weights` where it has
        one, else google/flan-t5-*.
      vision: hub id or folder of the CLIP model whose config.json has the sizes of the vision
        tower; None takes the one that the weights' config.json names.
      dtype: of parameters and matrix products, "float32" or "bfloat16". The weights are
        published in bfloat16: xxl takes 23 GB, xl 6.3, and twice as much in float32.
      mesh: devices that share the parameters and the pairs; None is the first device. The axis
        `model` splits every block, which needs the least memory for xxl; `data` gathers each
        block's parameters when it is their turn.
      jpeg_quality: pass images through a JPEG file of this quality, in [1, 95]; MIRO's is 75.
    """

    name = "vqa"
    needs_caption, synthetic_form = CARDS[0].needs_caption, CARDS[0].synthetic_form

    def __init__(
        self,
        variant: str = "xxl",
        weights: str | None = None,
        tokenizer: str | None = None,
        vision: str | None = None,
        dtype: str = "float32",
        mesh: jax.sharding.Mesh | None = None,
        jpeg_quality: int | None = None,
    ):
        if variant not in VARIANTS:
            raise ValueError(f"variant must be one of {', '.join(VARIANTS)}; got {variant!r}.")
        card = _CARDS[variant]
        if jpeg_quality is not None and not 1 <= jpeg_quality <= 95:
            raise ValueError(f"jpeg_quality must be in [1, 95] or None; got {jpeg_quality}.")
        repository = card.repository(weights)
        raw = repository.json("config.json")
        others = {width: name for name, width in VARIANTS.items() if name != variant}
        if (width := raw.get("d_model")) in others:
            raise ValueError(
                f"variant must be {others[width]!r} for {repository}; got {variant!r}."
            )
        default = TOKENIZER.format(variant)
        tokenizer = tokenizer or repository.own_or(default, "tokenizer.json", "spiece.model")
        self._tokenizer = load_tokenizer(hub.open(tokenizer), "t5")
        self._before, self._labels = encode_texts(self._tokenizer, [BEFORE, ANSWER])
        tower = raw.get("mm_vision_tower", VISION) if vision is None else vision
        sizes, classes = hub.open(tower).json("config.json"), self._tokenizer.get_vocab_size()
        config = repository.parsed(
            "config.json", lambda own: clip_flant5_keys.parse_config(own, sizes, classes)
        )
        check_vocabulary(vocabulary(self._tokenizer), config.t5.vocabulary, tokenizer)
        network = clip_flant5_keys.load(repository.tensors(), config, dtype=dtype, mesh=mesh)
        self._network = Tower(network)
        self._size, self._jpeg_quality = config.vision.image_size, jpeg_quality
        jpeg = "" if jpeg_quality is None else f"-jpeg{jpeg_quality}"
        self.version = f"{card.version}{jpeg}"
        self.preprocessing = f"padded-bicubic{self._size}{jpeg}"
        # Shared with no other reward.
        self.tower = f"{self.version}-{repository.digest()[:12]}-{dtype}"

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """Pad an image [H, W, 3] uint8 to a square and resize it to [S, S, 3] uint8."""
        base.check_image(image)
        if self._jpeg_quality is not None:
            image = through_jpeg(image, self._jpeg_quality)
        return pad_and_resize(image, self._size)

    def encode(self, prepared: np.ndarray) -> OnDevice:
        """Encode images [B, S, S, 3] uint8 into vision tokens [B, N, W]."""
        return self._network.run_on_device(_encode_images, prepared)

    def judge(self, features: OnDevice, captions: Sequence[str]) -> np.ndarray:
        """Return the scores [B] float32 in [0, 1] of vision tokens, each with its caption."""
        base.check_captions(captions, len(features))
        questions = [AFTER.format(clean_caption(caption)) for caption in captions]
        longest = MAX_TOKENS - 1 - len(self._before)
        # A prompt that is too long loses its end, the end token included.
        rows = [ids[:longest] for ids in encode_texts(self._tokenizer, questions)]
        size = ROWS * self._network.mesh.shape["data"]
        scores = np.zeros(len(rows), np.float32)
        for members, after, mask in by_length(rows, lambda n: -(-n // STEP) * STEP, size, PADDING):
            before, labels = (
                np.tile(np.array(row, np.int32), (len(members), 1))
                for row in (self._before, self._labels)
            )
            # T5 hides its padding wherever it stands, in a caption too.
            mask &= after != PADDING
            tokens = self._network.take(features, members)
            likely = self._network.run(_answer, tokens, before, after, mask, labels)
            scores[members] = np.exp(likely.mean(axis=1))
        return scores


def clean_caption(caption: str) -> str:
    """Delete code, tags and backticks from a caption as MIRO does before it asks the model.

    Text between fences of three backticks goes, an open fence takes the rest with it; a tag
    `<...>` becomes a space; two or more blanks become one.
    """
    caption = re.sub(r"```.*?(```|\Z)", "", caption, flags=re.DOTALL)
    caption = re.sub(r"<[^>]+>", " ", caption).replace("`", "")
    return re.sub(r"\s{2,}", " ", caption).strip()


def through_jpeg(image: np.ndarray, quality: int) -> np.ndarray:
    """Encode an image [H, W, 3] uint8 as JPEG with 4:2:0 chroma and decode it again (Pillow)."""
    file = io.BytesIO()
    Image.fromarray(image).save(file, "JPEG", quality=quality)
    return np.asarray(Image.open(file).convert("RGB"))


def pad_and_resize(image: np.ndarray, size: int) -> np.ndarray:
    """Pad an image to a square of CLIP's mean colour, itself in the middle, and resize that.

    Bicubic with antialiasing (Pillow), which works along rows first and then along columns, bytes
    in between; so do we, a band of rows at a time.

    Args:
      image: [H, W, 3] uint8. size: S, in pixels.

    Returns:
      [S, S, 3] uint8.

    Raises:
      ValueError: a side is longer than LONGEST_SIDE.
    """
    height, width, _ = image.shape
    side = max(height, width)
    if side > LONGEST_SIDE:
        raise ValueError(
            f"an image must be at most {LONGEST_SIDE} pixels long; got {width} x {height}. "
            "Crop it or skip it."
        )
    bands = (image[start : start + BAND] for start in range(0, height, BAND))
    x = np.concatenate([_resize(_pad(band, side, axis=1), size, axis=1) for band in bands])
    return _resize(_pad(x, side, axis=0), size, axis=0)


def _pad(image: np.ndarray, side: int, axis: int) -> np.ndarray:
    """Put an image in the middle of `side` pixels along an axis, rounding towards the start."""
    length = image.shape[axis]
    if length == side:
        return image
    shape = [*image.shape]
    shape[axis] = side
    padded = np.empty(shape, np.uint8)
    padded[:] = COLOR
    start = (side - length) // 2
    np.moveaxis(padded, axis, 0)[start : start + length] = np.moveaxis(image, axis, 0)
    return padded


def _resize(image: np.ndarray, size: int, axis: int) -> np.ndarray:
    """Resize along one axis alone."""
    sides = [image.shape[1], image.shape[0]]  # Pillow's order
    sides[1 - axis] = size
    return np.asarray(Image.fromarray(image).resize(sides, Image.Resampling.BICUBIC))


def _encode_images(network: clip_flant5.ClipFlanT5, images):
    return network.read(images)


def _answer(network: clip_flant5.ClipFlanT5, *arrays):
    return network.answer(*arrays)
