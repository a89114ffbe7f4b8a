"""The command line of the score stage: what it prints, what it refuses, how it ends."""

import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import pyarrow
import pytest
from pyarrow import parquet

from miro_jax import score as stage
from miro_jax.annotate import models
from miro_jax.rewards import CARDS, REWARDS, has_weights, why_not_commercial
from miro_jax.score import run
from tests.annotating import make_pieces
from tests.scoring import (
    Brightness,
    make_folder,
    make_shapes,
    read_failures,
    read_rows,
    score,
    write_csv,
)

ROOT = Path(__file__).parent.parent


PROGRESS = r"score rewards, piece 1 of 1, 1 failed: 13 of 13 images, [\d,.]+ (a second|s each)\n"
pytestmark = pytest.mark.usefixtures("no_flush")


def run_main(arguments, capsys):
    """Run in this process; return exit status, stdout and stderr."""
    return stage.main([str(a) for a in arguments]), *capsys.readouterr()


@pytest.mark.over_a_second
def test_command_line_scores_and_prints_a_table(tmp_path):
    captions, out = make_shapes(tmp_path / "in", 12), tmp_path / "scores.csv"
    (tmp_path / "in" / "x.png").write_bytes(b"")
    done = subprocess.run(
        [sys.executable, "-m", "miro_jax.score", str(tmp_path / "in"), f"--captions={captions}",
         "--rewards=beauty,colors", f"--out={out}", "--batch-size=5"],
        capture_output=True, text=True, timeout=120, cwd=ROOT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert re.match(r"reward +count +mean +std +min +1% .* 99% +max", lines[0])
    assert re.match(r"colors@shapes1 +12 ", lines[2])
    assert lines[4].startswith("12 of 13 images scored, ")
    assert lines[5] == "failed: empty file (1)"
    assert lines[6:] == [
        f"{out}{e}" for e in ("", ".summary.json", ".histograms.svg", ".failures.jsonl")
    ]
    assert re.fullmatch(PROGRESS, done.stderr)
    assert len(read_rows(out)) == 12


def test_help_shows_defaults_and_an_example(capsys):
    status, out, _ = run_main(["--help"], capsys)
    out = " ".join(out.split())
    assert status == 0 and "example: miro-jax score" in out
    assert "(default: 64)" in out and "(default: 1)" in out and "None" not in out


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"--rewards": "beauty,taste"}, "pick_score.*sharpness.*got 'taste'"),
        ({"--rewards": "beauty,beauty"}, "must differ"),
        ({"--rewards": "beauty@shapes1"}, "got 'beauty@shapes1'; did you mean beauty"),
        ({"--rewards": None}, "--rewards"),
        ({"--rewards": None, "--reward": "beauty"}, "'--reward=beauty'; did you mean --rewards"),
        ({"--out": "scores.txt"}, "must end in one of .parquet, .csv, .jsonl"),
        ({"--out": "folder/.csv"}, "must be a name that ends in .csv; got folder/.csv"),
        ({"--out": "/dev/null/x.csv"}, "/dev/null must be a folder"),
        ({"--weights": "beauty"}, "NAME=FOLDER_OR_HUB_ID"),
        ({"--weights": "beauty=/tmp"}, "published rewards"),
        ({"--rewards": "pick_score", "--weights": "pick_score=/nowhere/x"}, "/nowhere/x"),
        ({"--rewards": "pick_score", "--commercial-only": ""}, "PickScore_v1 is unknown"),
        ({"--dtype": "float16"}, "must be one of"),
        ({"--mesh": "2"}, "DATAxMODEL"),
        ({"--mesh": "0x1"}, "DATAxMODEL"),
        ({"--batch-size": "0"}, "batch-size: must be at least 1"),
        ({"--num-threads": "0"}, "num-threads"),
        ({"--limit": "-1"}, "limit"),
        ({"--max-failure-rate": "2"}, "max-failure-rate"),
        ({"--captions": "/nowhere/c.csv"}, "/nowhere/c.csv"),
        ({"--captions": "EMPTY"}, "column of captions"),
        ({"--caption-column": "long"}, "must come with a table"),
        ({"PATH": "/nowhere"}, "/nowhere is missing"),
        ({"PATH": __file__}, "For one image, give a table"),
        ({"PATH": "abc://bucket/x"}, r"such as gs://, s3:// or https://.*not known: abc"),
        ({"--captions": "/tmp"}, "table with paths and captions; it is a folder"),
        ({"PATH": "/nowhere/*.tar"}, "matches none"),
        ({"PATH": "tar:/nowhere/*"}, "matches none"),
        ({"PATH": "VOID"}, "holds none"),
        ({"PATH": "/nowhere/t.csv"}, "there is none"),
        ({"PATH": "/dev/null"}, "folder of images"),
        ({"in": ""}, "takes PATH and no more. Put a pattern of files in quotes"),
    ],
)
def test_bad_argument_exits_with_2_before_any_device_is_touched(
    tmp_path, capsys, monkeypatch, change, text
):
    def refuse(*arguments, **keywords):
        raise AssertionError("a device was touched or a reward was built")

    for place, name in ((jax, "local_devices"), (jax, "devices"), (models, "load_rewards")):
        monkeypatch.setattr(place, name, refuse)
    flags = {"PATH": make_folder(tmp_path / "in", 1), "--rewards": "beauty", "--out": "a.csv"}
    flags |= change
    (tmp_path / "void").mkdir()
    empty = write_csv(tmp_path / "c.csv", [("path", "words"), ("a", "b")])
    flags = {k: {"VOID": tmp_path / "void", "EMPTY": empty}.get(v, v) for k, v in flags.items()}
    monkeypatch.chdir(tmp_path)
    words = [flags.pop("PATH")]
    words += [f"{k}={v}" if v else k for k, v in flags.items() if v is not None]
    status, _, err = run_main(words, capsys)
    assert status == 2 and re.search(text, err), err
    assert "Traceback" not in err and not (tmp_path / "a.csv").exists()
    assert not (tmp_path / "a.csv.parts").exists()


def test_missing_weights_exit_with_2_and_say_what_to_fetch(tmp_path, capsys):
    arguments = [make_folder(tmp_path / "in", 1), "--rewards=pick_score", f"--out={tmp_path}/a.csv"]
    status, _, err = run_main(arguments, capsys)
    assert status == 2 and "hf download yuvalkirstain/PickScore_v1" in err
    (tmp_path / "weights").mkdir()
    arguments.append(f"--weights=pick_score={tmp_path}/weights")
    status, _, err = run_main(arguments, capsys)
    assert status == 2 and f"{tmp_path}/weights holds none of model.safetensors" in err


def test_other_command_over_the_same_output_is_refused_in_one_line(tmp_path, capsys):
    folder = make_folder(tmp_path / "in", 2)
    arguments = [folder, "--rewards=beauty", f"--out={tmp_path}/a.csv"]
    assert run_main(arguments, capsys)[0] == 0
    assert run_main(arguments, capsys)[0] == 0
    status, _, err = run_main([*arguments, "--stored"], capsys)
    assert status == 2 and "a.csv belongs to another request: stored is false there" in err


def test_failures_end_with_1_above_the_rate_and_0_below(tmp_path, capsys):
    folder = make_folder(tmp_path / "in", 4)
    (folder / "000.png").write_bytes(b"")
    arguments = [folder, "--rewards=beauty", f"--out={tmp_path}/a.csv"]
    status, _, err = run_main([*arguments, "--max-failure-rate=0.2"], capsys)
    assert status == 1 and "empty file (1)" in err
    assert run_main([*arguments, "--max-failure-rate=0.25"], capsys)[0] == 0


def test_interrupt_ends_with_130_and_says_how_to_go_on(tmp_path, capsys, monkeypatch):
    def interrupt(job):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "execute", interrupt)
    arguments = [make_folder(tmp_path / "in", 1), "--rewards=beauty", f"--out={tmp_path}/a.csv"]
    status, _, err = run_main(arguments, capsys)
    assert status == 130 and "the same command resumes" in err


def test_commercial_only_leaves_out_what_forbids_it_or_does_not_say(tmp_path, capsys):
    arguments = [make_folder(tmp_path / "in", 2), f"--out={tmp_path}/a.csv", "--commercial-only"]
    status, _, err = run_main([*arguments, "--rewards=clip,beauty,aesthetic"], capsys)
    assert status == 0
    assert "dropped by --commercial-only: clip; CC-BY-NC-4.0 of jinaai/jina-clip-v2" in err
    assert "aesthetic; the licence of openai/clip-vit-large-patch14 is unknown" in err
    summary = json.loads((tmp_path / "a.csv.summary.json").read_text())
    assert set(summary["left_out"]) == {"clip", "aesthetic"}
    assert list(summary["rewards"]) == ["beauty@shapes1"]


def test_a_reward_of_ones_own_has_no_known_licence(tmp_path):
    with pytest.raises(ValueError, match="brightness@test1: the licence of its weights is unknown"):
        score(make_folder(tmp_path / "in", 1), tmp_path / "a.csv", [Brightness()],
              commercial_only=True)  # fmt: skip


def test_licences_are_known_for_every_reward_or_said_to_be_unknown():
    assert {card.name for card in CARDS.values()} == {n for n in REWARDS if has_weights(n)}
    assert all(card.licences for card in CARDS.values())
    free = {name for name in REWARDS if has_weights(name) and not why_not_commercial(name)}
    assert {"hpsv2", "image_reward", "sci_score", "vqa"} == free
    assert why_not_commercial("hpsv2@2.0") == ""


def test_parts_of_a_mesh_that_does_not_fit_are_refused(tmp_path, capsys):
    folder = make_folder(tmp_path / "in", 1)
    arguments = [folder, "--rewards=pick_score", f"--out={tmp_path}/a.csv", "--mesh=16x1"]
    status, _, err = run_main(arguments, capsys)
    assert status == 2 and "must fit the 8 devices of this process; got 16x1" in err


def test_a_command_that_is_done_prints_the_same_table_again(tmp_path, capsys):
    captions = make_shapes(tmp_path / "in", 12)
    arguments = [tmp_path / "in", f"--captions={captions}", "--rewards=beauty,colors"]
    arguments.append(f"--out={tmp_path}/a.csv")
    first, second = (run_main(arguments, capsys) for _ in range(2))
    assert first[0] == second[0] == 0 and first[1] == second[1]


def test_a_source_of_annotation_may_be_a_table(tmp_path, capsys):
    make_folder(tmp_path / "in", 3)
    images = [(tmp_path / "in" / f"{i:03d}.png").read_bytes() for i in range(3)]
    parquet.write_table(
        pyarrow.table({"image": images, "caption": list("abc")}), tmp_path / "a.parquet"
    )
    arguments = [f"table:{tmp_path}/a.parquet", "--rewards=beauty", f"--out={tmp_path}/a.csv"]
    status, out, _ = run_main(arguments, capsys)
    assert status == 0 and "3 of 3 images scored" in out
    write_csv(tmp_path / "in" / "c.csv", [("path", "caption"), ("000.png", "x")])
    arguments = [f"folder:{tmp_path}/in?captions={tmp_path}/in/c.csv", "--rewards=beauty"]
    status, out, _ = run_main([*arguments, f"--out={tmp_path}/b.csv"], capsys)
    assert status == 0 and "3 of 3 images scored" in out


def test_texts_that_cannot_be_read_do_not_matter_to_rewards_that_read_none(tmp_path, capsys):
    folder = make_folder(tmp_path / "in", 4)
    (folder / "001.txt").write_bytes(b"\xff\xfe")
    (folder / "002.json").write_text("{")
    (folder / "003.TXT").write_text("capitals")
    (folder / "003.txt").unlink()
    arguments = [folder, "--rewards=beauty", f"--out={tmp_path}/a.csv"]
    assert run_main(arguments, capsys)[0] == 0
    assert [row["caption"] for row in read_rows(tmp_path / "a.csv")] == [
        "picture 0",
        "",
        "",
        "capitals",
    ]
    arguments = [folder, "--rewards=colors", f"--out={tmp_path}/b.csv"]
    assert run_main(arguments, capsys)[0] == 0
    assert read_failures(tmp_path / "b.csv") == {
        "001.png": "unreadable caption",
        "002.png": "unreadable json",
    }


def test_damage_of_a_tar_is_no_image_and_is_counted_beside_them(tmp_path, capsys):
    pieces = [Path(path) for path in make_pieces(tmp_path / "in", 2, 4)]
    pieces[1].write_bytes(pieces[1].read_bytes()[:100])
    arguments = [f"tar:{tmp_path}/in/*.tar", "--rewards=beauty", f"--out={tmp_path}/a.csv"]
    status, _, err = run_main([*arguments, "--max-failure-rate=0"], capsys)
    assert status == 1 and "; 0 of 4 did, beside 1 damaged part of the input (20.00%)" in err
    assert "First: p1.tar (at byte" in err
    assert "or raise --max-failure-rate and run again" in err
    status, out, _ = run_main(arguments, capsys)
    assert status == 0 and "4 of 4 images scored" in out
    assert "damaged, and not all of it read: damaged tar (1)" in out and "failed: " not in out
    summary = json.loads((tmp_path / "a.csv.summary.json").read_text())
    assert (summary["num_images"], summary["num_failures"]) == (4, 0)
    assert summary["failures"] == {"damaged tar": 1}


@pytest.mark.parametrize("samples", [1, 0])
def test_a_rate_of_1_is_never_exceeded_however_many_tars_are_damaged(tmp_path, capsys, samples):
    pieces = [Path(path) for path in make_pieces(tmp_path / "in", 3, 1)]
    for path in pieces[samples:]:
        path.write_bytes(b"")
    arguments = [f"tar:{tmp_path}/in/*.tar", "--rewards=beauty", f"--out={tmp_path}/a.csv"]
    status, out, err = run_main(arguments, capsys)
    assert status == 1 - samples and "At most" not in err
    assert "1 of 1 images scored" in out if samples else "none of 0 did: damaged tar (3)" in err


def test_captions_that_cannot_be_read_are_listed_unless_no_reward_reads_any(tmp_path, capsys):
    folder = make_folder(tmp_path / "in", 5)
    (folder / "001.txt").write_bytes(b"caf\xe9")
    (folder / "002.txt").unlink()
    (folder / "004.png").write_bytes(b"")
    for rewards in ("beauty", "beauty,colors"):
        arguments = [folder, f"--rewards={rewards}", f"--out={tmp_path}/{rewards}.csv"]
        assert run_main(arguments, capsys)[0] == 0
    assert read_failures(tmp_path / "beauty.csv") == {"004.png": "empty file"}
    lines = (tmp_path / "beauty,colors.csv.failures.jsonl").read_text().splitlines()
    first, second = map(json.loads, lines)
    assert (first["key"], first["cause"]) == ("001.png", "unreadable caption")
    assert "byte 0xe9 in position 3" in first["detail"]
    assert (second["key"], second["cause"]) == ("004.png", "empty file")


def test_the_hint_says_where_captions_stand_of_this_input(tmp_path, capsys):
    make_folder(tmp_path / "in", 1)
    image = (tmp_path / "in" / "000.png").read_bytes()
    rows = pyarrow.table({"image": [image] * 2, "caption": ["a", None]})
    parquet.write_table(rows, tmp_path / "a.parquet")
    write_csv(tmp_path / "in" / "t.csv", [("path", "caption"), ("000.png", "a"), ("000.png", "")])
    for number, (source, place) in enumerate(
        ((f"table:{tmp_path}/a.parquet", "?caption=NAME"), (tmp_path / "in/t.csv", "-column=NAME"))
    ):
        arguments = [source, "--rewards=beauty,colors", f"--out={tmp_path}/{number}.csv"]
        status, out, _ = run_main(arguments, capsys)
        assert status == 0 and "missing caption (1)" in out
        assert place in out and "KEY.txt" not in out


def test_a_scorer_of_another_name_is_a_bad_argument(tmp_path, capsys):
    hello = {"miro_scorer": 1, "name": "other", "version": "1", "needs_caption": False}
    (tmp_path / "mine.py").write_text(f"print({json.dumps(json.dumps(hello))}, flush=True)")
    name = f"process:{sys.executable} {tmp_path}/mine.py"
    arguments = [make_folder(tmp_path / "in", 1), f"--rewards={name}", f"--out={tmp_path}/a.csv"]
    status, _, err = run_main(arguments, capsys)
    assert status == 2 and "'mine'; its hello says 'other'. Rename one of them.\n" in err
