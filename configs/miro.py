"""MIRO as the paper trains it (Dufour et al. 2025, arXiv 2510.25897), on records of photographs.

    python -m miro_jax.main --config=configs/miro.py --workdir=runs/miro --stage=annotate \\
        --config.source.spec='tar:/data/cc12m/*.tar?synthetic=/data/captions.tsv'
    python -m miro_jax.main --config=configs/miro.py --workdir=runs/miro

Keys are those of configs/base.py, where each is explained. Variants: synth (half of the steps use
synthetic captions), baseline (no rewards), reward_dropout, only_REWARD, no_REWARD, 512 (image
latents of 512 pixels), tiny_real (every stage in minutes on a CPU, from weights of any size in the
published layouts; learns nothing). Several are joined by commas, as `configs/miro.py:synth,512`.
"""

from ml_collections import ConfigDict

from configs import base

# The order of the released checkpoints.
REWARDS = ("clip", "aesthetic", "image_reward", "pick_score", "hpsv2", "vqa", "sci_score")


def miro() -> ConfigDict:
    """The paper's main model: 360 million parameters, about a day of 16 H100."""
    c = base.base()
    with c.unlocked():
        c.source.spec = ""  # to be given for the annotate stage, as in the example above
        c.encoder.image = ConfigDict()
        c.encoder.image.name = "sdxl_vae"
        c.encoder.image.size = 256  # pixels; image latents are an eighth
        c.encoder.image.dtype = "float32"
        c.encoder.caption = ConfigDict()
        c.encoder.caption.name = "flan_t5"
        c.encoder.caption.width = 2048  # of FLAN-T5-XL
        c.encoder.caption.max_tokens = 256  # of training; the release samples with 77
        c.encoder.caption.dtype = "bfloat16"

    c.rewards = REWARDS
    c.annotate.batch_size = 64
    c.annotate.num_threads = 16
    c.annotate.dtype = "bfloat16"
    c.annotate.one_by_one = True  # the weights of VQAScore alone take 23 GB
    c.data.synthetic_caption_prob = 0.0
    c.data.train_rewards = REWARDS
    c.data.read_threads = 16
    c.data.caption_buckets = (77, 128)

    c.model.dtype = "bfloat16"
    c.model.rin.patch_size = 2
    c.model.rin.token_width = 512
    c.model.rin.latent_width = 1024
    c.model.rin.num_latent_tokens = 256
    c.model.rin.num_blocks = 4
    c.model.rin.layers_per_block = 4
    c.model.rin.read_write_heads = 16
    c.model.rin.process_heads = 32
    c.model.rin.condition_heads = 16
    c.model.rin.condition_layers = 2
    c.model.rin.num_registers = 16
    c.model.rin.mlp_multiplier = 4
    c.model.rin.mlp_multiple = 256
    c.model.rin.table_std = 0.02
    c.model.rin.sigma = 0.5
    c.model.rin.log_variance_features = 128
    c.model.rin.prediction = "velocity"
    c.model.rin.skip_gate = False
    c.model.rin.self_condition = True

    c.optim.name = "lamb"
    c.optim.learning_rate = 1e-3
    c.optim.warmup_steps = 5_000
    c.optim.rate = 0.8
    c.optim.betas = (0.9, 0.999)
    c.optim.weight_decay = 0.01

    c.train.num_steps = 500_000
    c.train.batch_size = 1024
    c.train.ema_decay = 0.9999
    c.train.caption_dropout = 0.0
    c.train.log_every_steps = 100
    c.train.sample_every_steps = 10_000
    c.train.score_samples = False  # the rewards would need the memory that training has
    c.train.checkpoint_every_steps = 2_500
    c.train.report = False

    c.distil.num_steps = 20_000
    c.distil.batch_size = 64
    c.distil.learning_rate = 1e-4
    c.distil.warmup_steps = 500
    c.distil.teacher_steps = 32
    c.distil.max_guidance = 10.0

    c.extend.num_steps = 20_000
    c.extend.learning_rate = 1e-4
    c.extend.warmup_steps = 500

    c.sample.num_steps = 50
    c.sample.targets = ""
    c.sample.guidance_scale = 7.0
    c.sample.batch_size = 32
    c.sample.images_per_prompt = 2
    c.sample.prompts = (
        "a red fox in the snow, photograph",
        "an astronaut riding a horse, oil painting",
        "a bowl of ramen on a wooden table",
        "a lighthouse on a cliff at sunset",
    )
    c.evaluate.beside = ""
    return c


def synth(c: ConfigDict) -> None:
    """Half of the steps use the synthetic caption, with its scores."""
    c.data.synthetic_caption_prob = 0.5


def baseline(c: ConfigDict) -> None:
    """No rewards."""
    c.data.train_rewards = ()
    c.train.caption_dropout = 0.1  # guidance then works against the empty prompt alone


def at_512(c: ConfigDict) -> None:
    """Train on the second image latents of records made with `--config.annotate.encode_512`."""
    c.encoder.image.size = 512
    c.model.rin.remat = True


def tiny_real(c: ConfigDict) -> None:
    """A small network and small batches; `--config.weights.NAME=FOLDER` names small weights."""
    c.encoder.image.size = 32
    c.encoder.caption.width = 24
    c.encoder.caption.max_tokens = 16
    c.encoder.caption.dtype = "float32"
    c.annotate.batch_size = 8
    c.annotate.num_threads = 2
    c.annotate.dtype = "float32"
    c.annotate.num_bins = 8
    c.annotate.one_by_one = False
    c.data.synthetic_caption_prob = 0.5
    c.data.read_threads = 2
    c.data.caption_buckets = (4, 8)
    c.model.dtype = "float32"
    c.model.rin.token_width = 16
    c.model.rin.latent_width = 32
    c.model.rin.num_latent_tokens = 4
    c.model.rin.num_blocks = 1
    c.model.rin.layers_per_block = 1
    c.model.rin.read_write_heads = 2
    c.model.rin.process_heads = 2
    c.model.rin.condition_heads = 2
    c.model.rin.condition_layers = 1
    c.model.rin.num_registers = 2
    c.model.rin.mlp_multiplier = 2
    c.model.rin.mlp_multiple = 32
    c.model.rin.log_variance_features = 32
    c.optim.warmup_steps = 1
    c.train.num_steps = 4
    c.train.batch_size = 8
    c.train.log_every_steps = 1
    c.train.sample_every_steps = 4
    c.train.checkpoint_every_steps = 2
    c.distil.num_steps = 2
    c.distil.batch_size = 8
    c.distil.warmup_steps = 1
    c.distil.teacher_steps = 2
    c.extend.num_steps = 4
    c.extend.warmup_steps = 1
    c.sample.num_steps = 2
    c.sample.batch_size = 8
    c.sample.images_per_prompt = 1


VARIANTS = {"synth": synth, "baseline": baseline, "512": at_512, "tiny_real": tiny_real}
VARIANTS |= {"reward_dropout": base.reward_dropout}
VARIANTS |= base.of_single_rewards(REWARDS)


def get_config(variant: str = "") -> ConfigDict:
    """Return the config of a variant, or of several; ValueError lists the known ones."""
    return base.choose_variants(miro(), variant, VARIANTS, "configs/miro.py")
