"""The T5 of transformers, with random weights, behind functions of numpy arrays."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from transformers import T5Config, T5EncoderModel, T5ForConditionalGeneration, T5Tokenizer

Arrays = dict[str, np.ndarray]
torch.set_num_threads(1)

# Heads x head width is not the width; the two stacks differ in depth.
TINY = {
    "d_model": 24,
    "d_kv": 8,
    "num_heads": 4,
    "d_ff": 40,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "vocab_size": 130,
}


class Oracle:
    """Encoder, decoder and a head of its own; every weight is drawn anew, norms included."""

    def __init__(self, sizes: dict[str, int], seed: int, std: float = 0.2):
        torch.manual_seed(seed)
        config = T5Config(
            feed_forward_proj="gated-gelu",
            tie_word_embeddings=False,
            decoder_start_token_id=0,
            **sizes,
        )
        self.sizes = sizes
        self.model = T5ForConditionalGeneration(config).eval()
        # transformers 5 ties the head to the embedding whatever the config says.
        self.model.lm_head.weight = torch.nn.Parameter(self.model.lm_head.weight.detach().clone())
        redraw(self.model, std)

    def config(self) -> dict:
        """What a published config.json says of these sizes."""
        return self.sizes | {
            "model_type": "t5",
            "architectures": ["T5ForConditionalGeneration"],
            "feed_forward_proj": "gated-gelu",
            "tie_word_embeddings": False,
            "relative_attention_num_buckets": 32,
            "relative_attention_max_distance": 128,
            "layer_norm_epsilon": 1e-6,
            "pad_token_id": 0,
            "eos_token_id": 1,
            "decoder_start_token_id": 0,
        }

    def tensors(self) -> Arrays:
        """What a published file holds: the embedding under one name."""
        return {
            key: value.numpy()
            for key, value in self.model.state_dict().items()
            if "embed_tokens" not in key
        }

    @torch.no_grad()
    def encoder_stages(self, ids: np.ndarray, mask: np.ndarray) -> Arrays:
        """Encode: embedding, after the first block, after all blocks, bias of the first block."""
        output = self.model.encoder(
            input_ids=tensor(ids), attention_mask=tensor(mask), output_hidden_states=True
        )
        first = self.model.encoder.block[0].layer[0].SelfAttention
        return {
            "embedding": output.hidden_states[0].numpy(),
            "first block": output.hidden_states[1].numpy(),
            "end": output.last_hidden_state.numpy(),
            "bias": first.compute_bias(ids.shape[1], ids.shape[1]).numpy(),
        }

    @torch.no_grad()
    def decoder_stages(self, ids: np.ndarray, encoded: np.ndarray, mask: np.ndarray) -> Arrays:
        """Decode after encoded tokens `[B, S, D]`: after the first block, the end, the logits."""
        output = self.model.decoder(
            input_ids=tensor(ids),
            encoder_hidden_states=tensor(encoded),
            encoder_attention_mask=tensor(mask),
            output_hidden_states=True,
        )
        first = self.model.decoder.block[0].layer[0].SelfAttention
        return {
            "first block": output.hidden_states[1].numpy(),
            "end": output.last_hidden_state.numpy(),
            "logits": self.model.lm_head(output.last_hidden_state).numpy(),
            "bias": first.compute_bias(ids.shape[1], ids.shape[1]).numpy(),
        }

    @torch.no_grad()
    def logits(self, ids: np.ndarray, mask: np.ndarray, decoder_ids: np.ndarray) -> np.ndarray:
        """The whole model at once: logits [B, N, V] after each of the decoder's ids."""
        return self.model(
            input_ids=tensor(ids),
            attention_mask=tensor(mask),
            decoder_input_ids=tensor(decoder_ids),
        ).logits.numpy()


def write_weights(path: Path, arrays: Arrays) -> None:
    """Write a safetensors file with the library that publishers use."""
    save_file({k: torch.from_numpy(np.array(v)) for k, v in arrays.items()}, str(path))


@torch.no_grad()
def encode_alone(oracle: Oracle, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Encode with the class that has no decoder, given the same weights."""
    model = T5EncoderModel(oracle.model.config).eval()
    model.load_state_dict(oracle.model.state_dict(), strict=False)
    return model(input_ids=tensor(ids), attention_mask=tensor(mask)).last_hidden_state.numpy()


@torch.no_grad()
def redraw(module: torch.nn.Module, std: float) -> None:
    """Draw every parameter anew; vectors around 1 where they were 1."""
    for parameter in module.parameters():
        center = 1.0 if parameter.ndim == 1 and bool((parameter == 1).all()) else 0.0
        parameter.copy_(center + std * torch.randn_like(parameter))


def tensor(array: np.ndarray) -> torch.Tensor:
    """Copy an array; integers become 64-bit."""
    array = np.array(array)
    return torch.from_numpy(array.astype(np.int64) if array.dtype == np.int32 else array)


@torch.no_grad()
def save_by_transformers(folder: Path, texts: Sequence[str]) -> list[np.ndarray]:
    """Save an encoder as transformers 5 does beside a tokenizer; what it computes of each text."""
    tokenizer = T5Tokenizer.from_pretrained(folder)
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    model = T5EncoderModel(config).eval()
    model.save_pretrained(folder)
    inputs = [tokenizer(text, return_tensors="pt") for text in texts]
    return [model(**each).last_hidden_state[0].numpy() for each in inputs]
