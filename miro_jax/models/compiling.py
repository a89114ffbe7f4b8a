"""Options of XLA that measurements speak for, see docs/benchmarks.md."""

import jax

# cuBLASLt adds biases, residuals and GELUs where it multiplies: 3 % of sampling, 12 % of CLIP-H.
ON_GPU = {"xla_gpu_enable_cublaslt": True}


def inference_options() -> dict[str, bool]:
    """Return `compiler_options` of `jax.jit` for samplers and pretrained networks here."""
    return dict(ON_GPU) if jax.default_backend() == "gpu" else {}
