"""The cache of compiled programs: where it lies, and that a run which starts again uses it."""

import json
import os
import shutil
import subprocess
import sys

import jax
import pytest

from miro_jax.cli import compile_cache
from tests import compiling, training

COUNTING = """
import collections, json, sys
import jax

counts = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: counts.update([event]))
from miro_jax import main as entry
entry.main(sys.argv[1:])
print(json.dumps(counts))
"""


@pytest.fixture
def no_cache():
    names = "jax_compilation_cache_dir", compile_cache.LEAST
    before = {name: getattr(jax.config, name) for name in names}
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)


def test_compiled_programs_are_kept_in_the_folder_of_the_run(tmp_path, no_cache, monkeypatch):
    assert compile_cache.keep_compiled() is None
    monkeypatch.delenv(compile_cache.LEAST.upper(), raising=False)
    folder = compile_cache.keep_compiled(tmp_path)
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 0.1
    assert folder.parent == tmp_path / "compiled" and folder.name.startswith("cpu-")
    assert jax.config.jax_compilation_cache_dir == str(folder)
    monkeypatch.setenv("MIRO_JAX_CACHE", str(tmp_path / "shared"))
    assert compile_cache.keep_compiled(tmp_path) is None  # set up before
    jax.config.update("jax_compilation_cache_dir", None)
    assert compile_cache.keep_compiled() == tmp_path / "shared" / folder.name


def test_the_least_time_that_the_environment_gives_stays(tmp_path, no_cache, monkeypatch):
    monkeypatch.setenv(compile_cache.LEAST.upper(), "7")
    jax.config.update(compile_cache.LEAST, 7.0)
    compile_cache.keep_compiled(tmp_path)
    assert jax.config.jax_persistent_cache_min_compile_time_secs == 7


def test_a_folder_that_cannot_be_written_keeps_nothing(tmp_path, no_cache):
    (tmp_path / "compiled").write_text("")
    assert compile_cache.keep_compiled(tmp_path) is None
    assert jax.config.jax_compilation_cache_dir is None


@pytest.mark.slow
def test_a_run_that_starts_again_compiles_nothing(tmp_path):
    suite = os.environ | {  # with its cache
        compile_cache.LEAST.upper(): "0",
        "XLA_FLAGS": compiling.xla_flags(1),
    }
    own = {name: value for name, value in suite.items() if name != "JAX_COMPILATION_CACHE_DIR"}
    changes = "--config.train.num_steps=6", "--config.train.sample_every_steps=0"

    def run(stage, environment):
        """Run a stage; returns how many programs it compiled, and how many it found compiled."""
        command = *training.COMMAND, f"--workdir={tmp_path}", f"--stage={stage}"
        done = subprocess.run(
            [sys.executable, "-c", COUNTING, *command, *changes],
            env=environment,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        counts = json.loads(done.stdout.splitlines()[-1])
        return [
            counts.get(f"/jax/compilation_cache/cache_{what}", 0) for what in ("misses", "hits")
        ]

    run("annotate", suite)
    compiled, _ = run("train", own)
    shutil.rmtree(tmp_path / "checkpoints")  # as where it died before the first was complete
    again, found = run("train", own)
    assert again == 0 and 5 <= compiled <= found
