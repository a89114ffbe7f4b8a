"""Options are written once: the fields of a stage's settings are its flags and its config keys."""

import argparse
import dataclasses
import pathlib
import subprocess
import sys

import numpy as np
import pytest

from configs.base import get_config
from miro_jax.annotate import settings as annotate_settings
from miro_jax.annotate import stage
from miro_jax.cli import flags
from miro_jax.score import settings as score_settings

ROOT = pathlib.Path(__file__).parent.parent
STAGES = [annotate_settings, score_settings]
# Set by other sections of a config, or by whoever starts the process.
NOT_IN_A_CONFIG = {
    "source", "out", "rewards", "image_encoder", "caption_encoder", "weights",
    "piece", "worker_index", "num_workers", "distributed", "merge", "devices", "device_memory",
}  # fmt: skip


def fields_of(module):
    return {field.name for field in dataclasses.fields(module.Settings)}


@pytest.mark.parametrize("module", STAGES)
def test_every_field_is_a_flag_and_every_flag_a_field(module):
    actions = module.make_parser()._actions
    flags = {a.dest for a in actions if not isinstance(a, argparse._HelpAction)}
    assert flags == fields_of(module)
    assert all(action.help for action in actions)


def test_every_config_key_is_a_field():
    keys = set(get_config("").annotate)
    # `before` has two flags, --plan and --probe.
    assert keys - {"before"} | {"plan", "probe"} == fields_of(annotate_settings) - NOT_IN_A_CONFIG


def test_every_value_of_a_config_reaches_the_settings(tmp_path):
    config = get_config("tiny")
    changed = {
        "batch_size": 7, "num_threads": 3, "dtype": "bfloat16", "mesh": "1x1", "encode_512": True,
        "groups": (("all_of_them", ("beauty", "image", "captions")),), "stages": "all_of_them",
        "one_by_one": True, "pieces": "0", "max_failure_rate": 0.5, "num_bins": 5,
        "bins_strategy": "official", "before": "plan", "allow_urls": True,
    }  # fmt: skip
    assert changed.keys() == set(config.annotate)
    with config.unlocked():
        config.rewards = ("beauty",)
        config.source.shapes.num_images = 4
        for name, value in changed.items():
            config.annotate[name] = value
    made = stage.settings_of(config, tmp_path)
    assert made.plan and not made.probe
    del changed["before"]
    assert {name: getattr(made, name) for name in changed} == changed


def test_what_is_neither_true_nor_false_is_refused():
    given = {"path": "images", "rewards": ("beauty",), "out": "out.csv", "stored": np.True_}
    settings = score_settings.Settings(**given)
    flags.check(settings)
    assert settings.stored is True
    with pytest.raises(ValueError, match="stored must be True or False; got 'no'"):
        flags.check(dataclasses.replace(settings, stored="no"))


@pytest.mark.parametrize("name", ["annotate", "score"])
def test_help_imports_no_jax(name):
    program = f"import sys; from miro_jax.{name}.__main__ import main; "
    program += "assert main(['--help']) == 0; "
    program += "print({'jax', 'flax', 'orbax', 'pyarrow'} & set(sys.modules), file=sys.stderr)"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=ROOT, check=True
    )
    assert done.stderr == "set()\n" and "--batch-size" in done.stdout
