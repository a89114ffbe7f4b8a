"""The names of rewards cost no import of jax, and are those of the table."""

import subprocess
import sys

import pytest

from miro_jax.rewards import names, table


def test_names_are_those_of_the_table_with_the_released_order_first():
    assert names.RELEASED_REWARDS == tuple(table.REWARDS)[:7]
    known = (*names.PUBLISHED_REWARDS, *names.NEWER_REWARDS, *names.SHAPES_REWARDS)
    assert known == tuple(table.REWARDS)
    assert names.VERSIONED_REWARDS == tuple(table.VERSIONS)
    assert names.REWARD_NAMES == (*table.REWARDS, *table.VERSIONS)


def test_two_names_of_one_reward_are_refused():
    with pytest.raises(ValueError, match="must differ from each other; got hpsv2@2.1, hpsv2@2.1"):
        table.check_names(["hpsv2", "hpsv2@2.1"])
    table.check_names(["hpsv2", "hpsv2@2.0"])


def test_names_and_the_package_of_rewards_are_imported_without_jax_or_numpy():
    program = "import sys, miro_jax.rewards.names\n"
    program += "print({'jax', 'flax', 'numpy', 'PIL'} & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.returncode) == ("set()\n", 0), done.stderr
