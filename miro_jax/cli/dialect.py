"""What other programs call our flags and config keys, for "did you mean".

The words are those of diffusers (its pipelines and training scripts), of the authors' package and
of common sampling scripts. A suggestion is only made where a command has the flag or the key.
"""

import difflib
from collections.abc import Collection, Iterator, Sequence

# Our flag -> their words, without dashes; `_` counts as `-`.
FLAGS = {
    "steps": "num-inference-steps num-steps num-sampling-steps sampling-steps ddim-steps n-steps",
    "images": "num-images-per-prompt num-images n-samples num-samples n-iter images-per-prompt",
    "images-per-prompt": "num-images-per-prompt num-images n-samples num-samples images",
    "target": "reward-targets targets reward-target",
    "negative-target": "negative-reward-targets negative-targets",
    "guidance-scale": "cfg cfg-scale guidance scale omega w",
    "solver": "scheduler sampler",
    "seed": "generator manual-seed random-seed",
    "dtype": "torch-dtype precision mixed-precision weight-dtype",
    "checkpoint": "model model-id model-path pretrained pretrained-model-name-or-path ckpt "
    "ckpt-path checkpoint-path checkpoint-dir",
    "out": "output output-dir output-path output-file outdir out-dir save-dir save-path",
    "prompts-file": "prompts prompt-file from-file metadata-file",
    "prompt": "prompts text caption",
    "batch-size": "batch bs eval-batch-size per-device-batch-size",
    "num-threads": "workers dataloader-num-workers threads",
    "rewards": "reward reward-models scorers scorer metrics",
    "source": "data dataset dataset-name input image-dir images-dir train-data-dir",
    "captions": "captions-file caption-file texts prompts",
    "text-encoder": "text-encoder-path t5",
    "vae": "vae-path pretrained-vae-model-name-or-path",
    "suite": "benchmark task",
    "workdir": "work-dir logdir log-dir run-dir output-dir out out-dir outdir",
    "host": "server-name",
    "port": "server-port",
}
# Last part of our config key -> theirs, with underscores.
KEYS = {
    "learning_rate": "lr",
    "warmup_steps": "lr_warmup_steps",
    "num_steps": "max_train_steps max_steps num_train_steps num_inference_steps steps",
    "batch_size": "train_batch_size global_batch_size bs",
    "microbatches": "gradient_accumulation_steps grad_accum accumulate_grad_batches",
    "dtype": "mixed_precision precision torch_dtype",
    "clip_norm": "max_grad_norm grad_clip gradient_clip_val",
    "betas": "adam_beta1 adam_beta2 beta1 beta2",
    "weight_decay": "adam_weight_decay wd",
    "eps": "adam_epsilon epsilon",
    "checkpoint_every_steps": "checkpointing_steps save_steps save_every",
    "keep_checkpoints": "checkpoints_total_limit save_total_limit",
    "log_every_steps": "logging_steps log_every",
    "trackers": "report_to logger",
    "guidance_scale": "cfg cfg_scale",
    "images_per_prompt": "num_images_per_prompt",
    "negative": "negative_prompt",
    "targets": "reward_targets",
    "negative_targets": "negative_reward_targets",
    "solver": "scheduler sampler",
}
_USUAL = ("", "train", "optim", "model", "sample", "data")  # parts whose keys come first
_OF_TRAIN = ("--config", "--workdir", "--stage", "--resume")


def nearest_flag(flag: str, known: Collection[str]) -> str | None:
    """Return the flag of a command that an unknown one most likely means; None for none.

    Args:
      flag: as it was typed, without a value. known: those of the command, with their dashes.
    """
    name = flag.lstrip("-").replace("_", "-")
    for ours, theirs in FLAGS.items():
        if name in theirs.split() and f"--{ours}" in known:
            return f"--{ours}"
    flags = [one for one in known if one != "--"]
    near = difflib.get_close_matches(flag.replace("_", "-"), flags, 1)
    return near[0] if near else None


def nearest_keys(key: str, known: Sequence[str]) -> list[str]:
    """Return the keys of a config that an unknown one may mean, the likeliest first.

    Args:
      key: with dots, as `optim.lr`. known: all keys, with dots.
    """
    above, _, last = key.replace("-", "_").rpartition(".")
    parts = [above, *_USUAL]
    names = [ours for ours, theirs in KEYS.items() if last in theirs.split()] + [last]
    alike = [k for k in known if k.rpartition(".")[2] in names]
    rank = {part: number for number, part in reversed(list(enumerate(parts)))}
    alike.sort(key=lambda k: rank.get(k.rpartition(".")[0], len(parts)))
    if alike:
        return [k for k in alike if k.rpartition(".")[0] == above][:1] or alike[:3]
    near = difflib.get_close_matches(key, known, 3, 0.7)
    return list(dict.fromkeys([*near, *_with_like_ends(last, known)]))


def _with_like_ends(last: str, known: Sequence[str]) -> Iterator[str]:
    for key in known:
        if difflib.SequenceMatcher(None, key.rpartition(".")[2], last).ratio() > 0.8:
            yield key


def flag_of_train(name: str, known: Sequence[str]) -> str:
    """Return what an unknown flag of `miro-jax train` may mean, "" for nothing.

    Args:
      name: without dashes. known: all keys of the config.
    """
    keys = " or ".join(f"--config.{key}" for key in nearest_keys(name, known)[:3])
    return keys or nearest_flag(f"--{name}", _OF_TRAIN) or ""
