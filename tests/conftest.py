"""What every test stands on: eight fake CPU devices, no network, strict shapes, one compile cache.

The environment is set before jax is imported, and through variables rather than `jax.config`, so
that the processes that tests start inherit it.

Tests below tests/oracles/ compare with PyTorch; all others pass where it is not installed, which
`MIRO_TEST_WITHOUT_TORCH=1` proves: importing it fails, and tests/oracles/ is not collected.
"""

import ctypes
import gc
import importlib.metadata
import os
import pathlib
import signal
import sys

import pytest

from tests import absent, compiling

_LIBC = ctypes.CDLL(None)
_CACHE = pathlib.Path(__file__).parent.parent / ".pytest_cache" / "jax"

os.environ["JAX_PLATFORMS"] = "cpu"
os.environ["XLA_FLAGS"] = compiling.xla_flags(8)
os.environ["JAX_NUMPY_RANK_PROMOTION"] = "raise"
os.environ["HF_HUB_OFFLINE"] = "1"
# Compiled programs are kept between runs of the suite, by version of jax.
os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_CACHE / importlib.metadata.version("jax"))
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"

# What runs in the background of a shell, or under nohup, is started with these ignored, and so
# would be the processes that tests start.
for number, usual in (
    (signal.SIGINT, signal.default_int_handler),
    (signal.SIGHUP, signal.SIG_DFL),
    (signal.SIGTERM, signal.SIG_DFL),
):
    if signal.getsignal(number) is signal.SIG_IGN:
        signal.signal(number, usual)

if os.environ.get("MIRO_TEST_WITHOUT_TORCH") == "1":
    absent.hide("torch")
    collect_ignore = ["oracles"]


@pytest.fixture(scope="module", autouse=True)
def forget_programs():
    """Drop the compiled programs of a finished module: those of the whole suite fill 6 GiB."""
    yield
    if jax := sys.modules.get("jax"):  # most runs of a single file of tables and tars need none
        jax.clear_caches()
        gc.collect()
        if hasattr(_LIBC, "malloc_trim"):  # else the memory that is free again stays with us
            _LIBC.malloc_trim(0)


def pytest_collection_modifyitems(items):
    """Begin with the files that take long: at the end no process works alone on one of them."""
    long = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in long)


def pytest_collection_finish():
    """Spare collections of garbage what the imports made: a million objects that stay."""
    gc.collect()
    gc.freeze()


@pytest.fixture(scope="session")
def make_bucket():
    """What makes a bucket of an object store, started with the first test that wants one."""
    from tests import stores  # costs a second, and most runs of a single file need none

    with stores.serve() as make:
        yield make


@pytest.fixture(scope="session")
def google():
    """Google's store and what makes a bucket of it; see tests/gcs.py."""
    from tests import gcs

    with gcs.serve() as served:
        yield served


@pytest.fixture
def make_gs_bucket(google):
    """What makes a bucket of Google's store."""
    return google[1]


@pytest.fixture
def no_flush(monkeypatch):
    """Waiting for a busy disk would make tests slow; test_shards checks that we flush."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)
