"""Packaging of miro_jax: what it needs, and the extras. Exact versions stand in constraints.txt."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent


def read_version() -> str:
    """Return the package's `__version__` without importing it: jax may not be there yet."""
    text = (ROOT / "miro_jax" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE).group(1)


RUNTIME = [
    "absl-py",
    "array_record",
    "clu",
    "etils",
    "flax",
    "fsspec",
    "ftfy",
    "grain",
    "huggingface_hub",
    "jax",
    "jinja2",
    "markupsafe",
    "ml_collections",
    "ml_dtypes",
    "numpy",
    "optax",
    "orbax-checkpoint",
    "pillow",
    "pyarrow",
    "scipy",
    "simplejpeg",
    "tensorboardX",
    "tokenizers",
    "tqdm",
]

EXTRAS = {
    "tpu": ["jax[tpu]"],
    "cuda": ["jax[cuda12]"],
    # torch and einops carry the authors' package (tests/requirements-oracle.txt), an oracle.
    # diffusers, sentencepiece and transformers are oracles too; ipykernel and nbclient run the
    # notebooks; tensorflow-datasets, without TensorFlow, writes a data set for the reader of such;
    # moto, served by flask, is an object store.
    "test": [
        "diffusers",
        "einops",
        "flask",
        "flask-cors",
        "importlib_resources",
        "ipykernel",
        "moto",
        "nbclient",
        "pytest",
        "pyyaml",
        "s3fs",
        "safetensors",
        "sentencepiece",
        "tensorflow-datasets",
        "torch==2.13.0",
        "transformers",
    ],
    "dev": ["ruff"],
    "gcs": ["gcsfs"],
    "s3": ["s3fs"],
}

setup(
    name="miro_jax",
    version=read_version(),
    description="MIRO, multi-reward conditioned text-to-image pretraining, in JAX",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    packages=find_packages(include=["miro_jax", "miro_jax.*"]),
    package_data={"miro_jax.report": ["templates/*.html", "style.css"]},
    install_requires=RUNTIME,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["miro-jax = miro_jax.__main__:main"]},
)
