"""Options of XLA."""

import jax
import jax.numpy as jnp

from miro_jax.models import compiling


def test_options_are_for_gpus_and_known_to_xla(monkeypatch):
    assert compiling.inference_options() == {}
    monkeypatch.setattr(compiling.jax, "default_backend", lambda: "gpu")
    options = compiling.inference_options()
    assert options
    # An unknown one is an error, on a CPU too.
    assert jax.jit(lambda x: x + 1, compiler_options=options)(jnp.ones(2))[0] == 2
