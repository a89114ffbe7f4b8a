"""The method on one shelf: rin layers sharding attention flow guidance solvers sampler targets.

The names below are imported when first used: `models.targets` alone costs no import of jax.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach(
    __name__,
    submodules=["sharding"],
    submod_attrs={"rin": ["RIN", "RINConfig", "build", "rin_config"]},
)
