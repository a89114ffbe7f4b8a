"""A small release with everything that a user would fetch: network, caption encoder and VAE."""

import dataclasses
import json
from pathlib import Path

from tests.networks import resize
from tests.oracles import t5, t5_tokenizer, vae
from tests.oracles.pairs import REWARDS, TINY
from tests.oracles.release import save_release
from tests.oracles.rin import Oracle

WORDS = "a an of on in with red blue fox cat robot snow forest garden portrait painting of light"


@dataclasses.dataclass(frozen=True)
class Files:
    """Folders in the published layouts."""

    miro: Path
    text_encoder: Path
    vae: Path


def make(folder: Path, num_rewards: int = 7) -> Files:
    """Write a network of random weights, a T5 whose tokens it takes, and a VAE of 8 pixels a side
    for one latent."""
    files = Files(folder / "miro", folder / "flan-t5", folder / "vae")
    files.text_encoder.mkdir(parents=True)
    captions = [" ".join(WORDS.split()[i % 9 :]) for i in range(60)]
    processor = t5_tokenizer.train(files.text_encoder, captions, pieces=60)
    text = t5.Oracle(t5.TINY | {"vocab_size": processor.vocab_size() + 6}, seed=1)
    (files.text_encoder / "config.json").write_text(json.dumps(text.config()))
    t5.write_weights(files.text_encoder / "model.safetensors", text.tensors())
    vae.save(vae.make(seed=2, block_out_channels=(8, 8, 16, 16), norm_num_groups=4), files.vae)
    config = resize(TINY, num_rewards=num_rewards, caption_width=t5.TINY["d_model"])
    save_release(files.miro, Oracle(config, REWARDS[:num_rewards], seed=3))
    return files
