"""The command line of the annotate stage."""

import pathlib
import re
import subprocess
import sys

import jax
import pyarrow
import pytest
from pyarrow import parquet

from miro_jax import annotate
from miro_jax.data.records.manifest import Manifest
from miro_jax.data.shapes import world
from tests.annotating import SIZE, make_pieces, png, sample
from tests.sources import write_tar

ROOT = pathlib.Path(__file__).parent.parent


pytestmark = pytest.mark.usefixtures("no_flush")


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "miro_jax.annotate", *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )


@pytest.mark.over_a_second
def test_command_line_annotates_and_says_what_it_did(tmp_path):
    world.write_shards(tmp_path / "source", 12, SIZE, 6)
    done = command(
        f"--source=tar:{tmp_path}/source/*.tar", f"--out={tmp_path}/out", "--rewards=beauty,colors",
        f"--image-encoder=pixels:size={SIZE}", "--caption-encoder=words:width=16,max_tokens=8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("12 records, 0 failures")
    assert re.search(r"12 images in .* devices idle at least \d+% of the time", done.stderr)
    assert Manifest.load(tmp_path / "out").caption_width == 16


def run_main(arguments, capsys):
    """Run in this process; return exit status, stdout and stderr."""
    return annotate.main(arguments), *capsys.readouterr()


def test_help_shows_defaults_and_an_example(capsys):
    status, out, _ = run_main(["--help"], capsys)
    assert status == 0 and "default: 0.01" in " ".join(out.split())
    assert "\nexamples\n  miro-jax annotate" in out


def test_what_is_missing_is_said_with_all_that_it_may_be(capsys):
    _, _, error = run_main(["--rewards=beauty"], capsys)
    assert "--source (tar:PATTERN, folder:DIR, table:FILE or tfds:NAME@DIR" in error
    assert "--out (folder for the records, or URL of one as gs://bucket/name)" in error


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rewards": "beauty,taste"}, "sharpness.*taste"),
        ({"source": "zip:x"}, "'tar'"),
        ({"weights": "clip"}, "NAME=FOLDER_OR_HUB_ID"),
        ({"group": "a"}, "NAME=MEMBER"),
        ({"piece": "0", "pieces": "0"}, "must not both"),
        ({"piece": "0-1"}, "must be an integer"),
        ({"pieces": ""}, "numbers or ranges"),
        ({"num-workers": "4"}, "must come with a worker's index"),
        ({"pieces": "0", "num-workers": "4"}, "must not both"),
        ({"out": ""}, "must have a name"),
        ({"out": "gs:/bucket/x"}, "two slashes"),
        ({"image-encoder": "pixels:size=1e9"}, "size must be of type int; got 1000000000.0"),
        ({"caption-encoder": "words:width=a"}, "words: width must be of type int; got 'a'"),
        ({"pieces": "0-3"}, "0 .. 0"),
        ({"worker-index": "1"}, "number of workers"),
        ({"worker-index": "2", "num-workers": "2"}, "index must be in 0 .. 1"),
        ({"source": "tar:/nowhere/*.tar"}, "/nowhere/"),
        ({"image-encoder": "vae9"}, "pixels.*vae9"),
        ({"image-encoder": "pixels:speed=3"}, "speed"),
        ({"caption-encoder": "words:width"}, "KEY=VALUE"),
        ({"batch-size": "0"}, "batch-size: must be at least 1"),
        ({"mesh": "2"}, "DATAxMODEL"),
        ({"num-bins": "x"}, "must be an integer"),
        ({"out": "/dev/null/x"}, "must be a folder"),
        ({"out": None}, "--out"),
    ],
)
def test_bad_argument_exits_with_2_and_is_named(tmp_path, capsys, change, text):
    make_pieces(tmp_path / "source", 1, 2)
    flags = {
        "source": f"tar:{tmp_path}/source/*.tar",
        "out": f"{tmp_path}/out",
        "rewards": "beauty",
    }
    flags |= change
    arguments = [f"--{name}={value}" for name, value in flags.items() if value is not None]
    status, _, err = run_main(arguments, capsys)
    assert status == 2 and re.search(text, err)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_too_many_failures_exit_with_1(tmp_path, capsys):
    path = write_tar(tmp_path / "a.tar", sample(0, caption="") + sample(1))
    arguments = [f"--source=tar:{path}", f"--out={tmp_path}/out", "--rewards=beauty"]
    status, _, err = run_main(arguments, capsys)
    assert status == 1 and "missing caption (1)" in err


def test_processes_of_jax_share_the_pieces(tmp_path, capsys, monkeypatch):
    make_pieces(tmp_path / "source", 3, 2)
    started = []
    monkeypatch.setattr(jax.distributed, "initialize", lambda **_: started.append(True))
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    arguments = [f"--source=tar:{tmp_path}/source/*.tar", f"--out={tmp_path}/out"]
    status, out, err = run_main([*arguments, "--rewards=beauty", "--distributed"], capsys)
    assert status == 0 and started and "worker 1 of 2 (as requested)" in err
    assert out.startswith("published: all 1 pieces of this worker; when all 3 are, finish")
    assert (tmp_path / "out" / "shard-00001.array_record").exists()


def test_workers_then_merge(tmp_path, capsys):
    make_pieces(tmp_path / "source", 3, 2)
    arguments = [f"--source=tar:{tmp_path}/source/*.tar", f"--out={tmp_path}/out"]
    arguments.append("--rewards=beauty")
    status, _, err = run_main([*arguments, "--merge"], capsys)
    assert status == 1 and "3 are not (0 of them are begun)" in err
    status, out, _ = run_main([*arguments, "--pieces=0-1", "--stages=encode"], capsys)
    assert status == 0 and "published: 0 of 2 pieces; the others wait for the stages rewards" in out
    other = [*arguments, "--pieces=0-1", "--stages=rewards", "--batch-size=1"]
    status, out, _ = run_main(other, capsys)
    assert status == 0 and "for the stages encode (made in batches of 64; all need the same)" in out
    status, out, _ = run_main([*arguments, "--pieces=0-1", "--stages=rewards"], capsys)
    assert status == 0 and "published: all 2 pieces of this worker; when all 3 are, finish" in out
    assert run_main([*arguments, "--piece=2"], capsys)[0] == 0
    status, out, _ = run_main([*arguments, "--merge"], capsys)
    assert status == 0 and out.startswith("6 records, 0 failures")


@pytest.mark.parametrize("more", ["--pieces=0", "--stages=encode", "--worker-index=0"])
def test_a_merge_takes_no_choice_of_pieces_or_stages(tmp_path, capsys, more):
    make_pieces(tmp_path / "source", 1, 2)
    arguments = [f"--source=tar:{tmp_path}/source/*.tar", f"--out={tmp_path}/out"]
    status, _, err = run_main([*arguments, "--rewards=beauty", "--merge", more], capsys)
    assert status == 2 and "--merge is of all pieces and stages" in err


def test_a_plan_of_impossible_devices_is_refused_and_one_of_a_complete_set_is_short(
    tmp_path, capsys
):
    make_pieces(tmp_path / "source", 1, 2)
    arguments = [f"--source=tar:{tmp_path}/source/*.tar", f"--out={tmp_path}/out"]
    arguments.append("--rewards=beauty")
    status, _, err = run_main([*arguments, "--plan", "--devices=0"], capsys)
    assert status == 2 and "devices: must be at least 1; got '0'" in err
    share = ["--probe", "--worker-index=7", "--num-workers=8"]  # without any piece
    status, out, _ = run_main([*arguments, *share], capsys)
    assert status == 0 and "pieces: 1, of which this worker does 0" in out
    assert run_main(arguments, capsys)[0] == 0
    status, out, _ = run_main([*arguments, "--plan"], capsys)
    assert status == 0 and out == f"{tmp_path}/out is complete; nothing is left to do\n"


def test_stopping_from_the_keyboard_is_said_in_a_line(tmp_path, capsys, monkeypatch):
    make_pieces(tmp_path / "source", 1, 2)
    arguments = [f"--source=tar:{tmp_path}/source/*.tar", f"--out={tmp_path}/out"]
    arguments.append("--rewards=beauty")

    def stop(*_):
        raise KeyboardInterrupt

    for place, said in (("execute", "resumes from here"), ("plan", "nothing has begun")):
        monkeypatch.setattr(f"miro_jax.annotate.stage.{place}", stop)
        status, _, err = run_main(arguments, capsys)
        assert status == 130 and err.splitlines()[-1].endswith(f"{said}.")


@pytest.mark.parametrize("kind", ["folder", "table"])
def test_a_source_without_captions_is_refused_before_the_start(tmp_path, capsys, kind):
    source = tmp_path / "photos"
    source.mkdir()
    (source / "a.png").write_bytes(png(3))
    if kind == "table":
        table = pyarrow.table({"image": [png(3)], "alt": ["a text of another name"]})
        parquet.write_table(table, tmp_path / "a.parquet")
        source = tmp_path / "a.parquet"
    arguments = [f"--source={kind}:{source}", f"--out={tmp_path}/out", "--rewards=beauty"]
    status, _, err = run_main(arguments, capsys)
    assert status == 2 and "has no captions" in err and "?captions=FILE" in err
    assert "?caption=COLUMN" in err and not (tmp_path / "out").exists()


def test_synthetic_captions_of_other_pictures_are_noticed(tmp_path, capsys):
    make_pieces(tmp_path / "source", 1, 4)
    (tmp_path / "s.tsv").write_text("photos/other.jpg\tshort\tlong\n")
    arguments = [f"--source=tar:{tmp_path}/source/*.tar?synthetic={tmp_path}/s.tsv"]
    arguments += [f"--out={tmp_path}/out", "--rewards=beauty", "--image-encoder=pixels:size=16"]
    status, _, err = run_main(arguments, capsys)
    assert status == 0 and "warning: none of 4 images has a synthetic caption" in err
    assert "its first is for 'photos/other'" in err
