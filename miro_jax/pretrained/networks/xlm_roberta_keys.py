"""Published weights of XLM-RoBERTa with rotary positions: the text tower of jina-clip-v2.

The names of weights are those of jina-embeddings-v3. The repository describes the tower by code of
its own, which is never run: the sizes are read from its `config.json` here, as that code reads
them.
"""

from collections.abc import Mapping
from typing import Any

from miro_jax.pretrained.networks.xlm_roberta import Config, TextTower
from miro_jax.pretrained.weights import hf
from miro_jax.pretrained.weights.convert import SMALL, Layout, packed, table

# A `text_config` names another repository, jinaai/jina-embeddings-v3, for its sizes; these are
# they. `hf_model_config_kwargs` overrides them, as it does there. The rotary base is
# the one number that could not be read at its source: it is that of the Hugging Face port.
DEFAULTS = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
    "vocab_size": 250002,
    "type_vocab_size": 1,
    "layer_norm_eps": 1e-5,
    "pad_token_id": 1,
    "rotary_emb_base": 20000.0,
}
REQUIRED = {
    "position_embedding_type": "rotary",
    "hidden_act": "gelu",
    "pooler_type": "mean_pooler",
}

BLOCK = table(
    """
    mixer.Wqkv      .                packed
    mixer.out_proj  out
    norm{1,2}       {norm,mlp_norm}
    mlp.{fc1,fc2}   {hidden,mlp_out}
    """,
    packed=packed(),
)
TABLE = table(
    """
    embeddings.word_embeddings.weight        embedding  array
    embeddings.token_type_embeddings.weight  types      array
    emb_ln                                   norm
    encoder.layers.*                         blocks/*   block
    """,
    block=BLOCK,
)
UNUSED = r"pooler\..*|(.*\.)?inv_freq"
# Of tensors named without a prefix, LoRA merged (see `weights.lora`).
load = Layout(TextTower, TABLE, UNUSED, SMALL).load


def parse_config(config: Mapping[str, Any]) -> Config:
    """Read the sizes from `text_config` of jina-clip's `config.json`; see DEFAULTS."""
    given = dict(config.get("hf_model_config_kwargs", {}))
    hf.require_options({**config, **given}, REQUIRED, "text_config")
    own = hf.with_defaults(given, DEFAULTS, "text_config")
    return Config(
        width=own["hidden_size"],
        layers=own["num_hidden_layers"],
        heads=own["num_attention_heads"],
        mlp_width=own["intermediate_size"],
        vocabulary=own["vocab_size"],
        types=own["type_vocab_size"],
        padding=own["pad_token_id"],
        rotary_base=own["rotary_emb_base"],
        epsilon=own["layer_norm_eps"],
    )
