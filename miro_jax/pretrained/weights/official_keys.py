"""The table that maps the keys of a released `model.safetensors` to the paths of `models.rin.RIN`.

Kernels are stored `[out, in]` there and `[*inputs, *outputs]` here: a transpose, then the packs
(q k v, or the halves of SwiGLU) and the heads get axes of their own, in the same order.
"""

from collections.abc import Sequence

from miro_jax.pretrained.weights.convert import LINEAR, NORM, Row, below, same

# Our name of a reward -> the release's. Others keep their name.
RELEASE_NAMES = {
    "clip": "clip_score",
    "aesthetic": "aesthetic_score",
    "image_reward": "image_reward_score",
    "pick_score": "pick_a_score_score",
    "hpsv2": "hpsv2_score",
    "vqa": "vqa_score",
    "sci_score": "sciscore_score",
}
# Booleans that are always true; normalisation of image latents, which the image encoder has; a VAE.
IGNORED = (
    r"network\.(cond_mask|registers_coherence_mask|(.*\.)?attention_mask_dummy)"
    r"|(data_preprocessing|postprocessing)\..*"
)
FOURIER = (("freqs", "frequencies", same), ("phases", "phases", same))
TABLE = (("", "table", same),)
GAIN = (("", "layer_scale", same),)
SCALAR = (
    *below("encode_time", "fourier", FOURIER),
    *below("map_time_input", "hidden", LINEAR),
    *below("map_time_output", "out", LINEAR),
)
GELU_MLP = (*below("linear_1", "hidden", LINEAR), *below("linear_2", "out", LINEAR))
SWIGLU = (*below("linear_packed", "packed", LINEAR), *below("linear_out", "out", LINEAR))
CROSS_ATTENTION = (
    *below("initial_to_ln", "norm", NORM),
    *below("ca.q", "q", LINEAR),
    *below("ca.kv", "kv", LINEAR),
    *below("ca.q_norm", "q_norm", NORM),
    *below("ca.k_norm", "k_norm", NORM),
    *below("ca.out", "out", LINEAR),
    *below("middle_ln", "mlp_norm", NORM),
    *below("ffn", "mlp", SWIGLU),
)
SELF_ATTENTION = (
    *below("initial_ln", "norm", NORM),
    *below("sa.qkv", "qkv", LINEAR),
    *below("sa.q_norm", "q_norm", NORM),
    *below("sa.k_norm", "k_norm", NORM),
    *below("sa.out", "out", LINEAR),
    *below("middle_ln", "mlp_norm", NORM),
)
NETWORK = (
    *below("patch_extractor", "patch_in", LINEAR),
    *below("data_ln", "patch_norm", NORM),
    *below("data_pos_embedding", "token_positions", TABLE),
    *below("latents", "latent_tokens", TABLE),
    *below("time_embedder", "time", SCALAR),
    *below("coherence_positional_embedding", "reward_positions", TABLE),
    *below("text_registers", "registers", TABLE),
    *below("map_text_tokens", "caption_in", LINEAR),
    *below("transformers_blocks.*", "condition_encoder/*", SELF_ATTENTION),
    *below("transformers_blocks.*.ffn", "condition_encoder/*/mlp", GELU_MLP),
    *below("transformers_blocks.*.layer_scale_1", "condition_encoder/*/attention_scale", GAIN),
    *below("transformers_blocks.*.layer_scale_2", "condition_encoder/*/mlp_scale", GAIN),
    *below("ln_previous_1", "previous_norm", NORM),
    *below("linear_previous", "previous_mlp", GELU_MLP),
    *below("ln_previous_2", "previous_gate", NORM),
    *below("rin_blocks.*.retrieve_cond", "blocks/*/read_condition", CROSS_ATTENTION),
    *below("rin_blocks.*.retriever_ca", "blocks/*/read", CROSS_ATTENTION),
    *below("rin_blocks.*.processer_sa.*", "blocks/*/process/*", SELF_ATTENTION),
    *below("rin_blocks.*.processer_sa.*.ffn", "blocks/*/process/*/mlp", SWIGLU),
    *below("rin_blocks.*.writer_ca", "blocks/*/write", CROSS_ATTENTION),
    *below("map_tokens_to_patches.0", "patch_out_norm", NORM),
    *below("map_tokens_to_patches.1", "patch_out", LINEAR),
)
PRECONDITIONING = (
    *below("logvar_proj.0", "logvar/fourier", FOURIER),
    *below("logvar_proj.1", "logvar/out", LINEAR),
)


def key_table(reward_names: Sequence[str]) -> tuple[Row, ...]:
    """Return the rows of a network that knows these rewards (our names)."""
    rewards = [
        row
        for index, name in enumerate(reward_names)
        for row in below(
            f"coherence_embedder.{RELEASE_NAMES.get(name, name)}_coherence",
            f"rewards/{index}",
            SCALAR,
        )
    ]
    return (
        *below("network", "", (*NETWORK, *rewards)),
        *below("preconditioning", "", PRECONDITIONING),
    )
