"""Fixtures of the parity tests."""

import jax
import pytest

from tests.networks import quick_compilation


@pytest.fixture(scope="module")
def precise():
    """Matrix products in full float32, programs compiled quickly."""
    with quick_compilation(), jax.default_matmul_precision("highest"):
        yield
