"""MIRO in JAX: text-to-image flow models trained on captions and reward levels together."""

__version__ = "0.1.0"
