"""A checkout and a working folder that are read-only are enough: all goes where it is told."""

import os
import pathlib
import subprocess
import sys

import pytest

from miro_jax.data.shapes import world
from tests import compiling, training

ROOT = pathlib.Path(__file__).parent.parent
QUICK = {"XLA_FLAGS": compiling.xla_flags(1)}  # compiled sooner
# What Python itself is asked to write; what libraries in C write shows in the folders afterwards.
WATCH = """
import os, sys
closed = [os.path.realpath(path) for path in sys.argv[1].split(os.pathsep)]
arguments = sys.argv[2:]
wrong = []

def watch(event, given):
    if event == "open":
        paths = given[:1] if (given[2] or 0) & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) else ()
    elif event in ("os.mkdir", "os.remove", "os.rmdir", "os.truncate", "os.chmod"):
        paths = given[:1]
    elif event in ("os.rename", "os.link", "os.symlink"):
        paths = given[:2]
    else:
        return
    if event not in ("open", "os.truncate") and given[-1] not in (-1, None):
        return  # relative to an open folder, as `shutil.rmtree` deletes
    for path in paths:
        if isinstance(path, (str, bytes, os.PathLike)):
            whole = os.path.abspath(os.fsdecode(path))
            if "__pycache__" not in whole and any(whole.startswith(p + os.sep) for p in closed):
                wrong.append((event, whole))

sys.addaudithook(watch)
if arguments[0] == "main":
    from miro_jax.main import main
else:
    from miro_jax.__main__ import main
status = main(arguments[arguments[0] == "main" :])
print(wrong, file=sys.stderr)
sys.exit(status or len(wrong))
"""

# Gives up root for good: another user, who may read what root may (the interpreter may lie in a
# home folder), and write nothing but what is everybody's.
DROP = """
import ctypes, os, sys
libc, other, reading = ctypes.CDLL(None, use_errno=True), 65534, 1 << 2
libc.prctl(8, 1, 0, 0, 0)  # keep capabilities
os.setgroups([]), os.setgid(other), os.setuid(other)
header, sets = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)(reading, reading)
libc.capset(header, sets)  # CAP_DAC_READ_SEARCH alone, where it can be had
os.environ["HOME"] = "/nonexistent"
for closed in sys.argv[1].split(os.pathsep):
    assert not os.access(closed, os.W_OK), closed
del sys.argv[1]
from miro_jax.__main__ import main
sys.exit(main(sys.argv[1:]))
"""


def listing(folder):
    return {
        str(path): path.stat().st_mtime_ns
        for path in folder.rglob("*")
        if "__pycache__" not in str(path) and path.is_file()
    }


def run(cwd, *arguments):
    closed = os.pathsep.join(map(str, (ROOT / "miro_jax", ROOT / "configs", cwd)))
    before = listing(ROOT / "miro_jax")
    done = subprocess.run(
        [sys.executable, "-c", WATCH, closed, *map(str, arguments)],
        cwd=cwd,
        env=os.environ | {"PYTHONPATH": str(ROOT)} | QUICK,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert listing(ROOT / "miro_jax") == before and list(cwd.iterdir()) == []


@pytest.fixture
def cwd(tmp_path):
    folder = tmp_path / "working"
    folder.mkdir()
    folder.chmod(0o555)
    yield folder
    folder.chmod(0o755)


@pytest.mark.slow
def test_annotate_and_score_write_nowhere_else(tmp_path, cwd):
    world.write_shards(tmp_path / "source", 8, 32, 8)
    source = f"--source=tar:{tmp_path}/source/*.tar"
    encoders = ("--image-encoder=pixels:size=32", "--caption-encoder=words:width=16,max_tokens=8")
    run(cwd, "annotate", source, f"--out={tmp_path}/out", "--rewards=beauty,colors", *encoders)
    assert (tmp_path / "out" / "manifest.json").exists()
    tars = tmp_path / "source" / "shapes-00000.tar"
    run(cwd, "score", tars, "--rewards=beauty", f"--out={tmp_path}/scores.parquet")
    assert (tmp_path / "scores.parquet").exists()


@pytest.mark.slow
def test_training_and_evaluation_write_nowhere_else(tmp_path, cwd):
    changes = {
        "train.num_steps": 2,
        "train.checkpoint_every_steps": 2,
        "optim.warmup_steps": 0,
    }
    changes |= {"source.shapes.num_images": 16, "source.shapes.images_per_shard": 16}
    changes |= {"train.sample_every_steps": 0, "evaluate.evaluators": ("gallery",)}
    values = [f"--config.{key}={value!r}" for key, value in changes.items()]
    run(cwd, "main", *training.COMMAND, *values, f"--workdir={tmp_path}/run")
    assert (tmp_path / "run" / "report.html").exists()


needs_root = pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="only root can become another user"
)


@pytest.fixture
def another(tmp_path, cwd):
    """Run a command as another user than root, in a working folder that is root's: its output."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    os.chown(theirs, 65534, 65534)
    for parent in theirs.parents:  # pytest's own are closed to others
        if parent.stat().st_mode & 0o005 != 0o005:
            parent.chmod(parent.stat().st_mode | 0o005)

    def call(*arguments):
        closed = os.pathsep.join(map(str, (ROOT, ROOT / "miro_jax", ROOT / "configs", cwd)))
        done = subprocess.run(
            [sys.executable, "-B", "-c", DROP, closed, *map(str, arguments)],
            cwd=cwd,
            env=os.environ | {"PYTHONPATH": str(ROOT)} | QUICK,
            capture_output=True,
            text=True,
        )
        assert list(cwd.iterdir()) == []
        return done

    call.folder = theirs
    return call


@needs_root
@pytest.mark.slow
def test_another_user_with_a_read_only_checkout_trains_samples_scores_and_evaluates(another):
    run = another.folder / "run"
    changes = {"train.num_steps": 2, "train.sample_every_steps": 0, "train.report": False}
    changes |= {"source.shapes.num_images": 16, "source.shapes.images_per_shard": 16}
    changes |= {"optim.warmup_steps": 0}
    values = [f"--config.{key}={value!r}" for key, value in changes.items()]
    images, suite = another.folder / "images", another.folder / "prompts.txt"
    suite.write_text("a red circle\n")
    for words in (
        ("train", *training.COMMAND, *values, f"--workdir={run}"),
        ("sample", f"--checkpoint={run}", "--prompt=a red circle", "--steps=1", f"--out={images}"),
        ("score", images, "--rewards=beauty", f"--out={another.folder / 'scores.csv'}"),
        ("evaluate", images, f"--suite={suite}", "--rewards=beauty"),
        ("doctor",),
    ):
        done = another(*words)
        assert done.returncode == 0, (words, done.stderr[-2000:])
        assert "Traceback" not in done.stderr, done.stderr


@needs_root
@pytest.mark.over_a_second
def test_another_user_is_told_in_one_line_where_nothing_can_be_written(another, cwd, tmp_path):
    source = tmp_path / "source"
    world.write_shards(source, 2, 32, 2)
    tar = next(source.glob("*.tar"))
    done = another("score", tar, "--rewards=beauty", f"--out={cwd / 'scores.csv'}")
    assert done.returncode in (1, 2) and done.stderr.count("\n") == 1
    assert "error: " in done.stderr and str(cwd) in done.stderr
