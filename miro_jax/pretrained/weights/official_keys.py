"""The table that maps the keys of a released `model.safetensors` to the paths of `models.rin.RIN`.

Kernels are stored `[out, in]` there and `[*inputs, *outputs]` here: a transpose, then the packs
(q k v, or the halves of SwiGLU) and the heads get axes of their own, in the same order. A release
has no `jump`: it is our students'.
"""

from collections.abc import Sequence

from miro_jax.pretrained.weights.convert import Row, below, table

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
FOURIER = table("""
    freqs   frequencies  array
    phases  phases       array
""")
SCALAR = table(
    """
    encode_time                        fourier       fourier
    {map_time_input,map_time_output}  {hidden,out}
    """,
    fourier=FOURIER,
)
GAIN = table(".  layer_scale  array")
GELU_MLP = table("{linear_1,linear_2}  {hidden,out}")
SWIGLU = table("{linear_packed,linear_out}  {packed,out}")
CROSS_ATTENTION = table(
    """
    initial_to_ln                norm
    ca.{q,kv,q_norm,k_norm,out}  {q,kv,q_norm,k_norm,out}
    middle_ln                    mlp_norm
    ffn                          mlp                       swiglu
    """,
    swiglu=SWIGLU,
)
SELF_ATTENTION = table("""
    initial_ln                 norm
    sa.{qkv,q_norm,k_norm,out}  {qkv,q_norm,k_norm,out}
    middle_ln                  mlp_norm
""")
NETWORK = table(
    """
    patch_extractor                           patch_in
    data_ln                                   patch_norm
    data_pos_embedding                        token_positions/table              array
    latents                                   latent_tokens/table                array
    time_embedder                             time                               scalar
    jump.{span,guidance}                      jump/{span,guidance}               scalar
    coherence_positional_embedding            reward_positions/table             array
    text_registers                            registers/table                    array
    map_text_tokens                           caption_in
    transformers_blocks.*                     condition_encoder/*                self
    transformers_blocks.*.ffn                 condition_encoder/*/mlp            gelu
    transformers_blocks.*.layer_scale_{1,2}   condition_encoder/*/{attention,mlp}_scale  gain
    ln_previous_{1,2}                         previous_{norm,gate}
    linear_previous                           previous_mlp                       gelu
    rin_blocks.*.retrieve_cond                blocks/*/read_condition            cross
    rin_blocks.*.{retriever_ca,writer_ca}     blocks/*/{read,write}              cross
    rin_blocks.*.processer_sa.*               blocks/*/process/*                 self
    rin_blocks.*.processer_sa.*.ffn           blocks/*/process/*/mlp             swiglu
    map_tokens_to_patches.{0,1}               patch_out{_norm,}
    """,
    scalar=SCALAR,
    gelu=GELU_MLP,
    swiglu=SWIGLU,
    gain=GAIN,
    self=SELF_ATTENTION,
    cross=CROSS_ATTENTION,
)
PRECONDITIONING = table(
    """
    logvar_proj.0  logvar/fourier  fourier
    logvar_proj.1  logvar/out
    """,
    fourier=FOURIER,
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
