"""Fixtures of the parity tests."""

import jax
import pytest


@pytest.fixture(scope="module")
def precise():
    """Matrix products in full float32."""
    with jax.default_matmul_precision("highest"):
        yield
