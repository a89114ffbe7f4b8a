"""Every config file and variant: builds, is valid, and describes a network that can be built."""

import importlib
import pathlib

import jax
import pytest
from flax import nnx

from configs import base as configs
from configs import miro
from miro_jax import sample
from miro_jax.evaluate import run as evaluate
from miro_jax.rewards import names
from miro_jax.train import components

FOLDER = pathlib.Path(__file__).parent.parent / "configs"
FILES = sorted(p.stem for p in FOLDER.glob("*.py") if p.stem != "__init__")
MODULES = {name: importlib.import_module(f"configs.{name}") for name in FILES}
ALL = [(name, v) for name, module in MODULES.items() for v in ("", *module.VARIANTS)]


def structure(config) -> tuple:
    """All that the network's and the state's shapes depend on, so that each is traced once."""
    parts = (config.encoder, config.model, config.optim, config.mesh)
    numbers = (config.train.num_steps, config.train.batch_size, config.sample.batch_size)
    return (*(part.to_json() for part in parts), len(config.data.train_rewards), numbers)


STRUCTURES = {structure(MODULES[f].get_config(v)): (f, v) for f, v in reversed(ALL)}


@pytest.mark.parametrize("file, variant", ALL)
def test_variant_is_valid_and_locked(file, variant):
    config = MODULES[file].get_config(variant)
    for check in (components.validate, sample.validate, evaluate.validate):
        check(config)
    assert config.is_locked
    with pytest.raises(AttributeError):
        config.train.batchsize = 3
    with pytest.raises(TypeError):
        config.train.batch_size = "many"


@pytest.mark.parametrize("file, variant", STRUCTURES.values())
@pytest.mark.slow
def test_variant_passes_the_shapes_of_its_state(file, variant):
    config = MODULES[file].get_config(variant)
    parts = components.build_components(config)
    rewards = nnx.to_pure_dict(parts.abstract.params)["rewards"] if parts.reward_names else {}
    assert len(rewards) == len(config.data.train_rewards) == len(parts.reward_names)
    leaves = jax.tree.leaves(parts.abstract)
    assert len(leaves) > 100 and all(leaf.sharding is not None for leaf in leaves)


@pytest.mark.over_a_second
def test_the_network_of_the_paper_has_the_size_of_the_released_one():
    parts = components.build_components(MODULES["miro"].get_config(""))
    count = sum(leaf.size for leaf in jax.tree.leaves(parts.abstract.params))
    assert count == 360_411_793  # see test_rin_parity for how the authors count


def test_names_of_rewards_are_those_of_the_package():
    """Configs import nothing of the package, so they list them again."""
    assert configs.PUBLISHED_REWARDS == names.PUBLISHED_REWARDS
    assert configs.NEWER_REWARDS == names.NEWER_REWARDS
    assert configs.REWARDS == names.SHAPES_REWARDS
    assert miro.REWARDS == names.RELEASED_REWARDS


@pytest.mark.parametrize("name", miro.REWARDS)
def test_variants_of_the_paper_say_what_they_tell_the_network(name):
    assert miro.get_config(f"only_{name}").data.train_rewards == (name,)
    assert len(miro.get_config(f"no_{name}").data.train_rewards) == 6
    assert miro.get_config("synth").data.synthetic_caption_prob == 0.5
    assert miro.get_config("").data.synthetic_caption_prob == 0


def test_structures_are_few_and_differ():
    """Guards the shortcut above: the 7 + 7 variants of single rewards have two structures."""
    assert len(STRUCTURES) < len(ALL)
    assert {v for _, v in STRUCTURES.values()} >= {"", "tiny", "full", "baseline"}


@pytest.mark.parametrize("file", FILES)
def test_unknown_variant_lists_the_known_ones(file):
    with pytest.raises(ValueError, match="Unknown variant 'tinny'") as caught:
        MODULES[file].get_config("tinny")
    listed = ", ".join(sorted(MODULES[file].VARIANTS))
    assert str(caught.value).endswith(f"known, several joined by commas: {listed}.")


@pytest.mark.parametrize("variant", ["only_", "no_", "only_beuty", "no_tiny"])
def test_variant_of_an_unknown_reward_is_refused(variant):
    with pytest.raises(ValueError, match=": .*only_beauty, "):
        configs.get_config(variant)


@pytest.mark.parametrize("name", configs.REWARDS)
def test_variants_of_one_reward_tell_the_network_what_they_say(name):
    assert configs.get_config(f"only_{name}").data.train_rewards == (name,)
    rest = configs.get_config(f"no_{name}").data.train_rewards
    assert rest == tuple(r for r in configs.REWARDS if r != name)


def test_several_variants_are_applied_from_left_to_right():
    config = miro.get_config("tiny_real,synth,512,no_clip,no_vqa")
    assert config.data.synthetic_caption_prob == 0.5 and config.encoder.image.size == 512
    assert config.model.rin.latent_width == 32 and len(config.data.train_rewards) == 5
    assert miro.get_config("512,tiny_real").encoder.image.size == 32
    with pytest.raises(ValueError, match="Unknown variant 'tinny'"):
        miro.get_config("synth,tinny")


def test_baseline_is_told_nothing_and_records_hold_all_rewards_in_every_variant():
    assert configs.get_config("baseline").data.train_rewards == ()
    assert {configs.get_config(v).rewards for v in ("", *configs.VARIANTS)} == {configs.REWARDS}


def test_variants_change_values_and_neither_keys_nor_types():
    plain = flatten(configs.get_config(""))
    for variant in configs.VARIANTS:
        changed = flatten(configs.get_config(variant))
        assert {k: type(v) for k, v in changed.items()} == {k: type(v) for k, v in plain.items()}
        assert changed != plain, variant


def flatten(config, prefix=""):
    found = {}
    for key, value in config.items():
        if hasattr(value, "items"):
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value
    return found


def test_two_calls_share_nothing():
    configs.get_config("tiny").train.num_steps = 77
    assert configs.get_config("tiny").train.num_steps != 77
