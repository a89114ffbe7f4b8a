"""Packaging of miro_jax: what it needs, and the extras. Exact versions stand in constraints.txt."""

import pathlib
import re

from setuptools import find_packages, setup

ROOT = pathlib.Path(__file__).parent


def read_version() -> str:
    """Return the package's `__version__` without importing it: jax may not be there yet."""
    text = (ROOT / "miro_jax" / "__init__.py").read_text(encoding="utf-8")
    return re.search(r'^__version__ = "([^"]+)"$', text, re.MULTILINE).group(1)


# Bounds where another series of releases is known to break us, or does by its own rules: jax and
# flax move together (flax 0.12.8 needs jax < 0.11.1, flax 0.12.12 needs jax >= 0.11.1).
RUNTIME = [
    "absl-py",
    "array_record>=0.8,<0.9",
    "clu>=0.0.12,<0.1",
    "etils",
    "flax>=0.12,<0.13",
    "fsspec",
    "ftfy",
    "grain>=0.2.18,<0.3",
    "huggingface_hub>=2,<3",
    "jax>=0.10,<0.13",
    "jinja2",
    "lazy_loader>=0.4",
    "markupsafe",
    "ml_collections>=1.1,<2",
    "ml_dtypes",
    "numpy>=2,<3",
    "optax>=0.2.8,<0.3",
    "orbax-checkpoint>=0.12,<0.13",
    "packaging",
    "pillow",
    "protobuf",
    "pyarrow",
    "scipy",
    "sentencepiece",
    "simplejpeg",
    "tensorboardX>=2.6,<3",
    "tokenizers>=0.23,<1",
    "tqdm",
    "transformers>=5,<6",
]

EXTRAS = {
    "tpu": ["jax[tpu]"],
    "cuda": ["jax[cuda12]"],
    "cuda12": ["jax[cuda12]"],
    "cuda13": ["jax[cuda13]"],
    # torch and einops carry the authors' package (tests/requirements-oracle.txt), an oracle.
    # diffusers is an oracle too; ipykernel and nbclient run the notebooks; tensorflow-datasets,
    # without TensorFlow, writes a data set for the reader of such; moto, served by flask, is an
    # object store; setuptools builds the wheel.
    # playwright drives the system's Chromium through the demo and the pages.
    "test": [
        "diffusers",
        "einops",
        "flask",
        "flask-cors",
        "gcsfs",
        "importlib_resources",
        "ipykernel",
        "ipywidgets",
        "moto",
        "nbclient",
        "playwright",
        "pytest",
        "pytest-xdist",
        "pyyaml",
        "s3fs",
        "safetensors",
        "setuptools",
        "tensorflow-datasets",
        "torch==2.13.0",
    ],
    "dev": ["basedpyright", "ruff"],
    "demo": ["gradio>=6,<7"],
    "docs": ["myst-parser", "sphinx", "sphinx-book-theme"],
    "gcs": ["gcsfs"],
    "s3": ["s3fs>=2026.3"],  # the first whose cat_file takes max_concurrency
}

setup(
    name="miro_jax",
    version=read_version(),
    description="MIRO, multi-reward conditioned text-to-image pretraining, in JAX",
    license="Apache-2.0",
    python_requires=">=3.11,<3.14",
    # The configs of a clone stand beside the package; those of a wheel below it.
    packages=[*find_packages(include=["miro_jax", "miro_jax.*"]), "miro_jax.configs"],
    package_dir={"miro_jax.configs": "configs"},
    package_data={
        "": ["*.pyi"],
        "miro_jax": ["py.typed"],
        "miro_jax.demo": ["style.css"],
        "miro_jax.evaluate": ["recorded/*.json"],
        "miro_jax.evaluate.plots": ["published/*.json"],
        "miro_jax.evaluate.suites": ["prompts/*/*", "expected/*.json"],
        "miro_jax.evaluate.suites.geneval": ["data/*"],
        "miro_jax.report": ["templates/*.html", "style.css"],
    },
    install_requires=RUNTIME,
    extras_require=EXTRAS,
    entry_points={"console_scripts": ["miro-jax = miro_jax.__main__:main"]},
)
