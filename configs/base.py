"""Every setting of a run, with its unit or meaning; the defaults train a small MIRO on the shapes
world.

    python -m miro_jax.main --config=configs/base.py --workdir=runs/base
    python -m miro_jax.main --config=configs/base.py:tiny --workdir=runs/tiny --config.seed=1

Variants (the words after the colon, joined by commas) only override values that stand here.
"""

from ml_collections import ConfigDict, config_dict

NEWER_REWARDS = ("ict", "hp", "cycle_reward")
PUBLISHED_REWARDS = (
    "clip",
    "aesthetic",
    "image_reward",
    "pick_score",
    "hpsv2",
    "vqa",
    "sci_score",
    "openai_clip",
)
REWARDS = ("sharpness", "cleanliness", "beauty", "objects", "colors", "count", "position")


def base() -> ConfigDict:
    """Two CPU cores, minutes: the shapes world at 16 x 16."""
    c = ConfigDict()
    c.seed = 0  # of initialisation, data order, training noise

    # Where the images come from. "shapes" makes its own tar shards; "tar:PATTERN", "folder:DIR",
    # "table:FILE" and "tfds:NAME@DIR" read yours, see docs/annotate.md.
    c.source = ConfigDict()
    c.source.spec = "shapes"
    c.source.shapes = ConfigDict()
    c.source.shapes.num_images = 12_000
    c.source.shapes.images_per_shard = 1_000
    c.source.shapes.size = 16  # pixels, side of the square image
    c.source.shapes.categories = (  # (GenEval category, weight)
        ("single_object", 1.0),
        ("two_object", 1.0),
        ("counting", 1.0),
        ("colors", 1.0),
        ("position", 1.0),
        ("color_attr", 1.0),
    )
    c.source.shapes.wrong_caption_fraction = 0.3  # mean over images; rises with beauty
    c.source.shapes.seed = 0

    # How an image and a caption become image latents and caption tokens.
    c.encoder = ConfigDict()
    c.encoder.image = ConfigDict()
    c.encoder.image.name = "pixels"
    c.encoder.image.size = 16  # pixels; images are cropped square and resized to it
    c.encoder.caption = ConfigDict()
    c.encoder.caption.name = "words"
    c.encoder.caption.width = 64
    c.encoder.caption.max_tokens = 10  # the longest crawl caption has 9

    # Rewards that annotation scores, in the order of the record's score vector.
    c.rewards = REWARDS
    # Hub id or folder of published weights; empty = the authors' own. Keys are names of rewards.
    c.weights = ConfigDict(
        dict.fromkeys((*PUBLISHED_REWARDS, *NEWER_REWARDS, "image_encoder", "caption_encoder"), "")
    )
    c.annotate = ConfigDict()
    c.annotate.batch_size = 256  # samples annotated, and kept through a crash, together
    c.annotate.num_threads = 4  # that decode
    c.annotate.dtype = "float32"  # of the rewards' networks
    c.annotate.mesh = "all"  # devices of a process; "allx2": pairs of them share each matrix
    c.annotate.encode_512 = False  # keep image latents of 512 pixels as well
    # Models that are in memory together: (name, members), of the rewards, "image" and "captions".
    c.annotate.groups = ()  # () = rewards, vqa, encode
    c.annotate.stages = "all"  # groups to run now, with commas between
    c.annotate.one_by_one = False  # load one group at a time
    # "0-9,17", or "shared": those that a scheduler gives this process, see docs/annotate.md.
    c.annotate.pieces = "all"
    # "plan": say what the stage will take and do nothing; "probe": measure the rate, too.
    c.annotate.before = ""
    c.annotate.max_failure_rate = 0.01
    c.annotate.allow_urls = False  # read what rows and links name outside of the source's folder
    c.annotate.num_bins = 64
    c.annotate.bins_strategy = "quantile"  # or "official": over unique values

    c.data = ConfigDict()
    c.data.records = ""  # folder or URL of an annotated set; empty = WORKDIR/records
    # 0 = records in a random order, each shard at hand all the time; n = in the order of n shards
    # at a time, of which a set in a store has 3 n on the disk.
    c.data.shuffle_shards = 0
    # Parts of each batch that read shards of their own; a multiple of the hosts lets each of them
    # read its share of the shards, in one order for any number of hosts. 1 = every host reads all.
    c.data.lanes = 1
    c.data.stage_bytes = 0  # of shards of a store on the disk at a time; 0 = most of what is free
    # Share of steps that use the synthetic caption, with its scores.
    c.data.synthetic_caption_prob = 0.0
    c.data.train_rewards = REWARDS  # conditioning rewards; a subset of rewards, () = baseline
    # A reward to add to a trained network, see `extend` and docs/extend.md; "" = none.
    c.data.new_reward = ""
    c.data.read_threads = 2
    c.data.prefetch_batches = 8
    # Lengths below max_tokens to which the captions of a batch are padded, at the least.
    c.data.caption_buckets = ()

    c.model = ConfigDict()
    c.model.dtype = "float32"  # of matrix products
    c.model.attention = "auto"  # its kernel: "cudnn", "xla", or cudnn where it can be had
    c.model.rin = ConfigDict()
    c.model.rin.patch_size = 8  # a patch holds one object
    c.model.rin.token_width = 256
    c.model.rin.latent_width = 128
    c.model.rin.num_latent_tokens = 8
    c.model.rin.num_blocks = 2
    c.model.rin.layers_per_block = 1
    c.model.rin.read_write_heads = 4
    c.model.rin.process_heads = 4
    c.model.rin.condition_heads = 4
    c.model.rin.condition_layers = 1
    c.model.rin.num_registers = 2
    c.model.rin.mlp_multiplier = 2
    c.model.rin.mlp_multiple = 32
    # The release starts its tables at 0.02, where positions and latent tokens hardly differ; they
    # grow over 100,000 steps. A run of a thousand steps needs different rows from the start.
    c.model.rin.table_std = 1.0
    c.model.rin.sigma = 0.35  # standard deviation of the data that preconditioning assumes
    c.model.rin.log_variance_features = 32
    # "velocity", as released, or "image": the network predicts the clean image, which is turned
    # into a velocity outside of it. Its few latent tokens need not carry the noise of patches of 8
    # pixels then; objects are crisp after a thousand steps.
    c.model.rin.prediction = "image"
    # One number of an image, read from its latent tokens, keeps a share of x_t in the prediction.
    # The release has none. With it grain is drawn as requested, which is the dial of cleanliness,
    # and grain that no patch of 8 pixels could predict does not disturb training.
    c.model.rin.skip_gate = True
    # The release runs the network twice a training step, to condition it on its own latent tokens;
    # once is 1.4 times as fast, and enough for objects of one patch each.
    c.model.rin.self_condition = False
    # What the backward pass recomputes: "none", each "block" or each layer, "attention_mlp".
    c.model.rin.remat = config_dict.FieldReference("none", field_type=object)  # or False, True
    c.model.rin.student = False  # set by --stage=distil
    c.model.rin.residual = "float32"  # of the tokens between layers; "compute": as the products
    c.model.rin.added_rewards = 0  # the last so many, whose missing levels have no token

    c.mesh = ConfigDict()
    c.mesh.data = -1  # devices along the batch; -1 = all that are left
    c.mesh.model = 1  # devices along heads and MLP width
    c.mesh.distributed = False  # several processes, one a host: see docs/training.md
    # What the scheduler's variables do not say, see cli/cluster.py: "" , 0 and -1 ask them.
    c.mesh.coordinator = ""  # HOST:PORT of process 0
    c.mesh.num_processes = 0
    c.mesh.process_id = -1  # of this process, from 0
    c.mesh.start_seconds = 300.0  # until all must be there
    c.mesh.heartbeat_seconds = 100.0  # a process silent for so long is gone: the others leave
    c.mesh.behind_seconds = 60.0  # a process that others wait for so long is named

    c.optim = ConfigDict()
    c.optim.name = "adamw"  # or "lamb", the paper's; slower than AdamW over a thousand steps
    c.optim.learning_rate = 2e-3
    c.optim.warmup_steps = 50
    c.optim.rate = 0.95  # how much of the cosine's half period is walked: 1 ends at 0
    # The paper has 0.999, which looks back further than this run is long.
    c.optim.betas = (0.9, 0.99)
    c.optim.eps = 1e-8
    c.optim.weight_decay = 0.1
    c.optim.clip_norm = 2.0  # global gradient norm
    c.optim.trainable = "all"  # or "new_reward": the token of the reward that was added last

    c.train = ConfigDict()
    c.train.num_steps = 2_000
    c.train.batch_size = 64  # global
    c.train.microbatches = 1  # parts of a batch, in memory one by one; the gradient is the same
    c.train.ema_decay = 0.995
    c.train.time_mean = 0.0  # logit-normal times
    c.train.time_std = 1.0
    c.train.self_condition_rate = 0.9  # share of samples that see their own latent tokens
    c.train.reward_dropout = 0.0  # share of levels made missing
    c.train.caption_dropout = 0.1  # share of captions made empty
    c.train.log_every_steps = 10
    c.train.sample_every_steps = 500  # labelled grid and rewards of it; 0 = never
    c.train.score_samples = True  # by all rewards, which must fit beside the network
    c.train.checkpoint_every_steps = 500
    # As well as by steps: seconds between checkpoints; 0 = by steps alone, -1 = what loses least,
    # sqrt(2 x failure_every_seconds x seconds that a save holds training up), at least a minute.
    c.train.checkpoint_every_seconds = -1.0
    c.train.failure_every_seconds = 14_400.0  # mean time between failures, as of spot machines
    c.train.keep_checkpoints = 2  # the newest
    c.train.keep_every_steps = 0  # and the multiples of it, for good; 0 = none
    c.train.keep_best = ""  # and where this metric is highest: "reward/beauty"; "-loss": lowest
    c.train.upload_every_seconds = 30.0  # of what has changed, where --workdir is a URL
    c.train.profile_steps = ()  # (10, 13): trace steps 10 to 13 into WORKDIR/profile
    c.train.peak_tflops = 0.0  # of a device, for the log's share of it (mfu); 0 = if it is known
    c.train.trackers = ()  # "wandb", "trackio": get a copy of metrics.jsonl; install them yourself
    c.train.report = True  # write report.html at the end of training

    # --stage=distil: a student of a trained network for a few steps, see docs/distil.md.
    c.distil = ConfigDict()
    c.distil.checkpoint = ""  # the teacher: a run or a release, by folder, URL or hub id
    c.distil.teacher = ""  # identity of its weights; the stage fills it in
    c.distil.num_steps = 800  # in place of train.num_steps
    c.distil.batch_size = 16  # trajectories of the teacher in an update, global
    c.distil.learning_rate = 1e-3  # in place of optim.learning_rate
    c.distil.warmup_steps = 50  # in place of optim.warmup_steps
    c.distil.teacher_steps = 16  # of a trajectory, a power of two; the student learns 1, 2, 4, ...
    c.distil.spans_per_trajectory = 8  # jumps that the student learns of one trajectory
    c.distil.max_guidance = 2.0  # scales are drawn from 0 to it
    c.distil.data_levels = 0.25  # share of levels that are of the records; the others are drawn
    c.distil.sample_steps = 4  # in place of sample.num_steps

    # --stage=extend adds data.new_reward to a trained network, and trains on.
    c.extend = ConfigDict()
    c.extend.checkpoint = ""  # a run or a release, by folder, URL or hub id
    c.extend.base = ""  # identity of its weights; the stage fills it in
    c.extend.num_steps = 300  # in place of train.num_steps
    c.extend.learning_rate = 5e-4  # in place of optim.learning_rate
    c.extend.warmup_steps = 20  # in place of optim.warmup_steps

    c.sample = ConfigDict()
    c.sample.solver = "euler"  # or "heun", "dpmpp_2m"
    c.sample.num_steps = 16
    c.sample.guidance_scale = 1.0  # 0 = none
    c.sample.negative = "empty"  # or "same", or a text: the prompt of the negative branch
    # "beauty=0.6,colors=1". Beauty costs legibility here: as in the paper (0.625 for the aesthetic
    # reward, figure 7), less than the highest level gives images that agree better with the prompt.
    # The study's sweep has its best at 0.25 (docs/results.md): guidance adds to what is requested.
    c.sample.targets = "beauty=0.25"  # rewards not named get 1; "none" = not requested
    c.sample.negative_targets = ""  # the same; rewards not named get 0
    c.sample.prompts = (
        "a red circle",
        "a square and a triangle",
        "three squares",
        "a blue triangle",
        "a circle left of a square",
        "a yellow circle and a purple triangle",
    )
    c.sample.images_per_prompt = 4
    c.sample.batch_size = 64
    c.sample.seed = 0

    c.evaluate = ConfigDict()
    # ("all",): those that can judge the run. "gallery", "reward_scores", "dials" judge any images,
    # "geneval" and "conflict" those of the shapes world.
    c.evaluate.evaluators = ("all",)
    # "shapes": prompts of the shapes world; "captions": of the run's records, which training has
    # seen; or a file, one prompt a line or JSON lines. "auto": shapes for a run trained on it, else
    # captions.
    c.evaluate.prompts = "auto"
    c.evaluate.max_prompts = 64  # taken from a file or from captions
    c.evaluate.levels = (0.0, 0.25, 0.5, 0.75, 1.0)  # requested levels of a dial
    c.evaluate.batch_size = 48
    # Cheapest at multiples of the batch size. A mean of 96 is known to 0.02 or 0.03, by which the
    # upper levels of some dials differ: they were in order or not by chance.
    c.evaluate.images_per_level = 192
    c.evaluate.conflict_reward = "beauty"  # chased at the cost of agreement with the prompt
    c.evaluate.prompts_per_category = 16  # of the shapes world
    c.evaluate.images_per_prompt = 4
    c.evaluate.categories = tuple(name for name, _ in c.source.shapes.categories)
    # Shown beside the numbers: a run's folder, an evaluation.json, or one that comes with the
    # package: baseline, the variant baseline of this config. It is left out where prompts or
    # sampling differ.
    c.evaluate.beside = "baseline"
    return c


def tiny(c: ConfigDict) -> None:
    """Every stage in about a minute on a CPU; learns nothing. Used by the tests."""
    c.source.shapes.num_images = 192
    c.source.shapes.images_per_shard = 64
    c.annotate.batch_size = 32
    c.model.rin.patch_size = 4
    c.model.rin.token_width = 16
    c.model.rin.latent_width = 32
    c.model.rin.num_latent_tokens = 4
    c.model.rin.num_blocks = 1
    c.model.rin.read_write_heads = 2
    c.model.rin.process_heads = 2
    c.model.rin.condition_heads = 2
    c.model.rin.condition_layers = 1
    c.optim.warmup_steps = 5
    c.train.num_steps = 20
    c.train.batch_size = 16
    c.train.log_every_steps = 1
    c.train.sample_every_steps = 10
    c.train.checkpoint_every_steps = 10
    c.distil.num_steps = 4
    c.distil.batch_size = 8
    c.distil.warmup_steps = 1
    c.distil.teacher_steps = 4
    c.distil.spans_per_trajectory = 2
    c.extend.num_steps = 4
    c.extend.warmup_steps = 1
    c.sample.num_steps = 2
    c.sample.batch_size = 16
    c.sample.images_per_prompt = 1
    c.evaluate.beside = ""
    c.evaluate.batch_size = 8
    c.evaluate.images_per_level = 8
    c.evaluate.prompts_per_category = 2
    c.evaluate.images_per_prompt = 1


def full(c: ConfigDict) -> None:
    """The shapes world at 32 pixels, a larger network, 20 times as many images: for an accelerator.

    It keeps what makes the small run learn: image prediction, patches of 8 pixels, tables that
    start apart.
    """
    c.source.shapes.num_images = 100_000
    c.source.shapes.images_per_shard = 5_000
    c.source.shapes.size = 32  # the detector reads shapes as well at 16; edges look better
    c.encoder.image.size = 32
    c.model.dtype = "bfloat16"
    c.model.rin.token_width = 512
    c.model.rin.latent_width = 256
    c.model.rin.num_latent_tokens = 32
    c.model.rin.num_blocks = 4
    c.model.rin.layers_per_block = 2
    c.model.rin.read_write_heads = 8
    c.model.rin.process_heads = 8
    c.model.rin.condition_heads = 8
    c.model.rin.condition_layers = 2
    c.model.rin.num_registers = 4
    c.model.rin.mlp_multiplier = 4
    c.optim.learning_rate = 1e-3
    c.optim.warmup_steps = 500
    c.train.num_steps = 10_000
    c.train.batch_size = 256
    c.train.ema_decay = 0.999
    c.train.log_every_steps = 50
    c.train.sample_every_steps = 1_000
    c.train.checkpoint_every_steps = 1_000
    c.sample.batch_size = 256
    c.evaluate.beside = ""
    c.evaluate.batch_size = 256
    c.evaluate.images_per_level = 256
    c.evaluate.prompts_per_category = 64


def baseline(c: ConfigDict) -> None:
    """No rewards: the paper's baseline. Guidance then works against the empty prompt alone."""
    c.data.train_rewards = ()
    c.sample.targets = ""
    c.evaluate.beside = ""


def reward_dropout(c: ConfigDict) -> None:
    """A tenth of all levels is missing in training: rewards then also work when others are not
    requested. What that costs and gains: `miro-jax compare`, see docs/extend.md."""
    c.train.reward_dropout = 0.1


def of_single_rewards(rewards) -> dict:
    """Return two variants for each reward: conditioned on it alone, and on all but it."""

    def only(name):
        def apply(c):
            c.data.train_rewards = (name,)
            c.sample.targets = ""

        return apply

    def without(name):
        def apply(c):
            c.data.train_rewards = tuple(other for other in c.data.train_rewards if other != name)
            if c.sample.targets.startswith(f"{name}="):
                c.sample.targets = ""

        return apply

    variants = {f"only_{name}": only(name) for name in rewards}
    return variants | {f"no_{name}": without(name) for name in rewards}


VARIANTS = {"tiny": tiny, "full": full, "baseline": baseline, "reward_dropout": reward_dropout}
VARIANTS |= of_single_rewards(REWARDS)


def get_config(variant: str = "") -> ConfigDict:
    """Return the config of a variant, or of several; ValueError lists the known ones."""
    return choose_variants(base(), variant, VARIANTS, "configs/base.py")


def choose_variants(config, variant, known, file) -> ConfigDict:
    """Apply variants, joined by commas, from left to right to the config of a file; lock it."""
    for name in filter(None, variant.split(",")):
        if name not in known:
            raise ValueError(
                f"Unknown variant {name!r} of {file}; known, several joined by commas: "
                f"{', '.join(sorted(known))}."
            )
        known[name](config)
    return config.lock()
