"""Tiny models of random weights in the layouts in which the real ones are published."""

import json

import numpy as np

from miro_jax.pretrained.weights.tensors import write_safetensors
from tests.oracles import (
    blip,
    clip,
    clip_flant5,
    clip_rewards,
    clip_tokens,
    jina,
    jina_tokenizer,
    releases,
    t5,
    t5_tokenizer,
)

CLIP_REWARDS = ("aesthetic", "pick_score", "hpsv2", "sci_score")


def make(folder):
    """Write all seven rewards and both encoders; name -> folder, as `config.weights` takes it."""
    files = releases.make(folder / "release", num_rewards=1)
    places = {"image_encoder": files.vae, "caption_encoder": files.text_encoder}
    places |= dict.fromkeys(CLIP_REWARDS, make_clip(folder / "clip-h"))
    places["clip"] = make_jina(folder / "jina-clip-v2")
    places["image_reward"] = make_image_reward(folder / "ImageReward")
    places["vqa"] = make_vqa(folder / "clip-flant5")
    return {name: str(place) for name, place in places.items()}


def make_clip(folder):
    """One folder that is a repository of each of the rewards made of a CLIP."""
    folder.mkdir(parents=True)
    oracle = clip.Oracle(clip_rewards.CONFIG, seed=5)
    (folder / "config.json").write_text(json.dumps(clip_rewards.CONFIG))
    write_safetensors(folder / "model.safetensors", oracle.tensors())
    half = {k: v.astype(np.float16) for k, v in clip.opened(oracle.tensors()).items()}
    write_safetensors(folder / "HPS_v2.1_compressed.safetensors", half)
    clip_tokens.write_tokenizer_json(folder, clip_rewards.NUM_MERGES)
    clip_rewards.save_pickle(folder / f"{clip_rewards.HEAD}.pth", clip_rewards.make_head(16))
    return folder


def make_jina(folder):
    """The CLIP score's."""
    folder.mkdir(parents=True)
    jina.Oracle(jina.CONFIG, seed=6).write(folder)
    jina_tokenizer.train(folder, jina_tokenizer.CORPUS, jina_tokenizer.PIECES)
    return folder


def make_image_reward(folder):
    """ImageReward's, with its tokenizer."""
    folder.mkdir(parents=True)
    text = {
        "hidden_size": 48,
        "num_attention_heads": 3,
        "num_hidden_layers": 1,
        "intermediate_size": 72,
        "vocab_size": len(blip.vocabulary()) + 2,
        "max_position_embeddings": 40,
        "layer_norm_eps": 1e-12,
    }
    blip.Oracle(blip.VISION, text, widths=(20, 9, 8, 5, 1), seed=2).write(folder)
    (folder / "vocab.txt").write_text("\n".join(blip.vocabulary()) + "\n", "utf-8")
    return folder


def make_vqa(folder):
    """VQAScore's, which names the folder of its vision tower's sizes."""
    vision = folder / "vision"
    vision.mkdir(parents=True)
    processor = t5_tokenizer.train(folder, clip_flant5.CORPUS, pieces=150)
    oracle = clip_flant5.Oracle(t5.TINY | {"vocab_size": processor.vocab_size() + 15}, seed=11)
    settings = oracle.config() | {"mm_vision_tower": str(vision)}
    (folder / "config.json").write_text(json.dumps(settings))
    (vision / "config.json").write_text(json.dumps(oracle.vision_config()))
    t5.write_weights(folder / "model.safetensors", oracle.tensors())
    return folder
