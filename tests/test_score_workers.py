"""Scoring by many processes, in groups, into object stores; damage of unfinished work."""

import json
import os
import pathlib
import subprocess
import sys
import uuid

import fsspec
import numpy as np
import pytest

from miro_jax import score as stage
from miro_jax.annotate import parts
from miro_jax.data.storage import Damaged, open_folder
from miro_jax.score import inputs, table
from tests.scoring import (
    Brightness,
    file_bytes,
    grey,
    make_folder,
    read_failures,
    read_rows,
    score,
    write_csv,
)

ROOT = pathlib.Path(__file__).parent.parent
pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Ten images with captions, in pieces of three."""
    monkeypatch.setattr(inputs, "IMAGES_PER_PIECE", 3)
    return make_folder(tmp_path / "in", 10)


@pytest.fixture
def whole(folder, tmp_path):
    score(folder, tmp_path / "whole.csv")
    return (tmp_path / "whole.csv").read_bytes()


def run_main(arguments, capsys):
    return stage.main([str(a) for a in arguments]), *capsys.readouterr()


def test_workers_together_write_the_table_of_one(folder, whole, tmp_path):
    out = tmp_path / "out.csv"
    for index in (1, 0):
        share = {"pieces": "shared", "worker_index": index, "num_workers": 2}
        assert score(folder, out, **share) is None
    assert not out.exists()
    chosen = [Brightness(), Brightness("length", True)]
    facts = score(folder, out, chosen, merge=True)
    assert facts["num_scored"] == 10 and chosen[0].num_encoded == 0
    assert out.read_bytes() == whole and not (tmp_path / "out.csv.parts").exists()


def test_the_command_says_what_is_missing_and_merges(folder, tmp_path, capsys, monkeypatch):
    arguments = [folder, "--rewards=beauty", f"--out={tmp_path}/a.csv"]
    monkeypatch.setenv("JOB_COMPLETION_INDEX", "1")
    monkeypatch.setenv("NUM_WORKERS", "2")
    status, out, err = run_main(arguments, capsys)
    assert status == 0 and "published: all 2 pieces of this worker; when all 4 are" in out
    assert "worker 1 of 2 (JOB_COMPLETION_INDEX)" in err
    status, _, err = run_main([*arguments, "--merge"], capsys)
    assert status == 1 and "2 are not (0 of them are begun)" in err and "--pieces=0,2" in err
    assert run_main([*arguments, "--pieces=0,2"], capsys)[0] == 0
    status, out, _ = run_main([*arguments, "--merge"], capsys)
    assert status == 0 and "10 of 10 images scored" in out
    assert len(read_rows(tmp_path / "a.csv")) == 10


@pytest.mark.parametrize("one_by_one", [True, False])
def test_groups_of_models_may_run_one_by_one_or_as_stages(folder, whole, tmp_path, one_by_one):
    groups = [("first", ["brightness"]), ("second", ["length"])]
    out = tmp_path / "out.csv"
    if one_by_one:
        score(folder, out, groups=groups, one_by_one=True)
    else:
        assert score(folder, out, groups=groups, stages="second") is None
        score(folder, out, groups=groups)
    assert out.read_bytes() == whole


def test_images_and_tables_may_lie_in_object_stores(folder, whole, tmp_path):
    store = f"memory://{uuid.uuid4().hex}"
    system = fsspec.filesystem("memory")
    system.put(f"{folder}/", f"{store}/in/", recursive=True)
    score(f"{store}/in", f"{store}/out.csv")
    assert system.cat(f"{store}/out.csv") == whole
    facts = json.loads(system.cat(f"{store}/out.csv.summary.json"))
    assert facts["num_scored"] == 10 and not system.exists(f"{store}/out.csv.parts/pieces")
    chosen = [Brightness(), Brightness("length", True)]
    assert score(f"{store}/in", f"{store}/out.csv", chosen) == facts
    assert chosen[0].num_encoded == 0


def spoil_and_finish(folder, out, spoil):
    """Do all but the last piece, spoil the others, finish; how many images were encoded anew."""
    score(folder, out, pieces=[0, 1, 2])
    spoil(out.with_name(out.name + ".parts") / "pieces")
    chosen = [Brightness(), Brightness("length", True)]
    score(folder, out, chosen)
    return chosen[0].num_encoded


# Of a file: its digest, the length of its header, the header, numbers and texts, the end.
FLIPS = {"digest": 3, "length": 17, "header": 40, "middle": 0.5, "late": 0.9, "end": -1}


def flip(path, where):
    """Flip a bit of a file at one of FLIPS, or cut it."""
    data = bytearray(path.read_bytes())
    if where in ("cut", "empty"):
        path.write_bytes(data[:-1] if where == "cut" else b"")
        return
    at = FLIPS[where]
    data[int(at * len(data)) if isinstance(at, float) else at] ^= 4
    path.write_bytes(data)


@pytest.mark.parametrize("where", [*FLIPS, "cut", "empty"])
@pytest.mark.parametrize("kind", ["piece", "part"])
def test_damage_anywhere_in_unfinished_work_is_noticed(folder, whole, tmp_path, kind, where):
    out, below = tmp_path / "a.csv", tmp_path / "a.csv.parts"
    groups = [("first", ["brightness"]), ("second", ["length"])]
    if kind == "piece":
        score(folder, out, groups=groups, pieces=[0, 1, 2])
        (path,) = below.glob("pieces/00001.rows")
    else:
        score(folder, out, groups=groups, stages="first")
        (path,) = below.glob("parts/00001/*.part")
    flip(path, where)
    chosen = [Brightness(), Brightness("length", True)]
    score(folder, out, chosen, groups=groups)
    assert chosen[0].num_encoded == (1 + 3 if kind == "piece" else 3)
    assert out.read_bytes() == whole


def test_pieces_that_stand_under_each_other_s_name_are_noticed(folder, whole, tmp_path):
    def swap(pieces):
        (pieces / "00000.rows").rename(pieces / "x")
        (pieces / "00001.rows").rename(pieces / "00000.rows")
        (pieces / "x").rename(pieces / "00001.rows")

    assert spoil_and_finish(folder, tmp_path / "a.csv", swap) == 1 + 6
    assert (tmp_path / "a.csv").read_bytes() == whole


@pytest.mark.parametrize("damage", ["flip", "swap"])
def test_spoiled_parts_of_batches_are_made_again(folder, whole, tmp_path, damage):
    groups = [("first", ["brightness"]), ("second", ["length"])]
    out = tmp_path / "a.csv"
    score(folder, out, groups=groups, stages="first", batch_size=2)
    one, other = sorted((tmp_path / "a.csv.parts" / "parts" / "00001").glob("*.part"))
    before = one.read_bytes()
    if damage == "flip":
        one.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    else:
        one.write_bytes(other.read_bytes())
        other.write_bytes(before)
    score(folder, out, groups=groups, batch_size=2)
    assert out.read_bytes() == whole


@pytest.mark.parametrize("ending", [".csv", ".parquet", ".jsonl"])
@pytest.mark.parametrize(
    ("kept", "text"),
    [
        (lambda tables: tables[1:], "row 0 of the table .* must be of '000.png'; it is of '003"),
        (lambda tables: tables[:-1], "row 9 of the table .* must be of '009.png'; it is of None"),
        (lambda tables: tables + tables[-1:], "row 10 of the table .* must be of None; it is of"),
        (lambda tables: tables[::-1], "row 0 of the table .* must be of '000.png'; it is of '009"),
    ],
)
def test_keys_and_their_number_are_checked_before_the_table_is_published(
    folder, tmp_path, monkeypatch, ending, kept, text
):
    write = table.write_table

    def other(path, identities, tables, raw):
        write(path, identities, kept(list(tables)), raw)

    monkeypatch.setattr(table, "write_table", other)
    with pytest.raises(Damaged, match=text):
        score(folder, tmp_path / f"a{ending}")
    assert not (tmp_path / f"a{ending}").exists()
    monkeypatch.setattr(table, "write_table", write)
    chosen = [Brightness(), Brightness("length", True)]
    assert score(folder, tmp_path / f"a{ending}", chosen)["num_scored"] == 10
    assert chosen[0].num_encoded == 0


HOLD = """
import sys
from tests.scoring import Brightness, score

class Waiting(Brightness):
    def encode(self, prepared):
        print("working", flush=True)
        sys.stdin.read()
        return super().encode(prepared)

score(sys.argv[1], sys.argv[2], [Waiting()])
"""


@pytest.mark.over_a_second
def test_a_second_process_for_the_same_pieces_is_refused_and_told_who_works(tmp_path, capsys):
    folder, out = make_folder(tmp_path / "in", 3), tmp_path / "a.csv"
    command = [sys.executable, "-c", HOLD, str(folder), str(out)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, text=True, cwd=ROOT, **pipes) as first:
        assert first.stdout.readline() == "working\n"
        with pytest.raises(BlockingIOError, match=f"host .*, pid {first.pid}, .*Wait for it"):
            score(folder, out, [Brightness()])
        first.kill()
    score(folder, out, [Brightness()])
    assert len(read_rows(out)) == 3


def test_an_unfinished_table_of_an_older_version_is_refused_in_a_line(folder, tmp_path, capsys):
    (tmp_path / "a.csv.parts").mkdir()
    (tmp_path / "a.csv.parts" / "command.json").write_text("{}")
    status, _, err = run_main([folder, "--rewards=beauty", f"--out={tmp_path}/a.csv"], capsys)
    assert status == 2 and len(err.splitlines()) == 1
    assert "begun by an older version, and this one cannot resume it" in err


def test_failed_images_change_no_bit_of_the_others_in_networks(tmp_path):
    """As programs of differing batch sizes would."""
    folder = make_folder(tmp_path / "in", 0)
    rng = np.random.default_rng(0)
    for i in range(7):
        image = rng.integers(0, 256, (24, 20, 3), np.uint8)
        (folder / f"{i}.png").write_bytes(file_bytes(image))
        (folder / f"{i}.txt").write_text(f"image {i}")
    shapes = set()

    class Watched(Brightness):
        def judge(self, features, captions):
            shapes.add((len(features), len(captions)))
            return super().judge(features, captions)

    def rows(out):
        score(folder, tmp_path / out, ["sharpness", "beauty", Watched()])
        return {row["key"]: row for row in read_rows(tmp_path / out)}

    before = rows("a.jsonl")
    for name in ("0.png", "2.png", "6.png"):
        (folder / name).write_bytes(b"")
    after = rows("b.jsonl")
    assert after == {name: before[name] for name in ("1.png", "3.png", "4.png", "5.png")}
    assert set(read_failures(tmp_path / "b.jsonl")) == {"0.png", "2.png", "6.png"}
    assert shapes == {(4, 4)}


def write_samples(folder):
    """A folder as sample leaves it."""
    folder.mkdir()
    images = []
    for i in range(3):
        (folder / f"{i:05d}.png").write_bytes(file_bytes(grey(i)))
        images.append({"file": f"{i:05d}.png", "prompt": f"prompt {i}", "seed": i})
    (folder / "grid.png").write_bytes(file_bytes(grey(200)))
    manifest = {"request": {"seed": 0}, "images": images[::-1], "files": ["grid.png"]}
    (folder / "manifest.json").write_text(json.dumps(manifest))
    return folder


def test_a_folder_that_sample_wrote_is_scored_with_its_prompts_and_without_its_grid(tmp_path):
    folder = write_samples(tmp_path / "images")
    score(folder, tmp_path / "a.csv")
    expected = [(f"{i:05d}.png", f"prompt {i}") for i in (2, 1, 0)]
    assert [(r["key"], r["caption"]) for r in read_rows(tmp_path / "a.csv")] == expected
    score(folder / "manifest.json", tmp_path / "b.csv")
    assert (tmp_path / "b.csv").read_bytes() == (tmp_path / "a.csv").read_bytes()


def test_the_manifest_of_sample_is_a_table_of_captions(tmp_path):
    folder = write_samples(tmp_path / "images")
    other = make_folder(tmp_path / "in", 0)
    (other / "00001.png").write_bytes(file_bytes(grey(9)))
    score(other, tmp_path / "a.csv", captions=folder / "manifest.json")
    (row,) = read_rows(tmp_path / "a.csv")
    assert row["caption"] == "prompt 1"
    captions = write_csv(tmp_path / "c.csv", [("path", "caption"), ("00002.png", "another")])
    score(folder, tmp_path / "b.csv", captions=captions)
    assert [r["caption"] for r in read_rows(tmp_path / "b.csv")] == ["another", "", ""]


def test_a_manifest_of_something_else_is_no_table(tmp_path):
    folder = make_folder(tmp_path / "in", 2)
    (folder / "manifest.json").write_text('{"images": 3}')
    assert score(folder, tmp_path / "a.csv")["num_scored"] == 2
    with pytest.raises(ValueError, match="must be the manifest.json of a folder that sample wrote"):
        score(folder, tmp_path / "b.csv", captions=folder / "manifest.json")


@pytest.mark.parametrize("change", ["row", "failure"])
def test_a_piece_that_lost_a_row_or_counts_a_sample_twice_is_not_published(
    folder, tmp_path, change
):
    """As a fault of the engine, and not of the disk, would leave it: with a digest that fits."""
    score(folder, tmp_path / "a.csv", pieces=[0, 1, 2])
    place = open_folder(tmp_path / "a.csv.parts")
    name = table.rows_name(1)
    arrays, facts = parts.unseal(place.read(name), name)
    if change == "row":
        arrays = {"scores": arrays["scores"][1:]}
        facts |= {column: facts[column][1:] for column in ("keys", "captions")}
        facts |= {column: facts[column][1:] for column in ("widths", "heights", "causes")}
    else:
        one = {"position": 0, "key": "003.png", "cause": "empty file", "detail": "", "piece": "p"}
        facts["failures"] = [one]
    place.write(name, parts.seal(arrays, facts))
    with pytest.raises(Damaged, match="has 3 samples; .* holds [23] rows and [01] failures of it"):
        score(folder, tmp_path / "a.csv")
    assert not (tmp_path / "a.csv").exists()


@pytest.mark.parametrize("where", ["disk", "store"])
def test_a_second_run_over_one_output_is_refused_and_leaves_the_first_its_work(
    folder, whole, tmp_path, where
):
    out = tmp_path / "a.csv" if where == "disk" else f"memory://{uuid.uuid4().hex}/a.csv"

    class Nosy(Brightness):
        refused = ""

        def encode(self, prepared):
            if not self.refused:
                with pytest.raises(BlockingIOError) as caught:
                    score(folder, out, [Brightness(), Brightness("length", True)])
                self.refused = str(caught.value)
            return super().encode(prepared)

    nosy = Nosy()
    facts = score(folder, out, [nosy, Brightness("length", True)])
    assert f"{out} is in use by another process (host " in nosy.refused
    assert f"pid {os.getpid()}, since 2" in nosy.refused and "\n" not in nosy.refused
    assert facts["num_scored"] == 10
    text = out.read_bytes() if where == "disk" else fsspec.filesystem("memory").cat(out)
    assert text == whole


def test_a_slower_worker_of_some_pieces_leaves_nothing_beside_a_finished_table(
    folder, whole, tmp_path
):
    out = tmp_path / "a.csv"

    class Overtaken(Brightness):
        def encode(self, prepared):
            if not out.exists():
                score(folder, out)
            return super().encode(prepared)

    score(folder, out, [Overtaken(), Brightness("length", True)], pieces=[0, 1])
    assert out.read_bytes() == whole and not (tmp_path / "a.csv.parts").exists()


@pytest.mark.parametrize("content", ["{", "[]", '{"command": 3}', "[" * 999, '{"num_images": NaN}'])
def test_a_damaged_summary_is_named_in_a_line(folder, tmp_path, capsys, content):
    arguments = [folder, "--rewards=beauty", f"--out={tmp_path}/a.csv"]
    assert run_main(arguments, capsys)[0] == 0
    (tmp_path / "a.csv.summary.json").write_text(content)
    status, _, err = run_main(arguments, capsys)
    assert status == 1 and len(err.splitlines()) == 1
    assert "a.csv.summary.json is damaged" in err and "Give another --out, or delete it" in err
    if content.startswith('{"'):  # an object: of unknown keys nothing is said
        return
    (tmp_path / "a.csv").unlink()
    (tmp_path / "a.csv.parts").mkdir()
    partial = tmp_path / "a.csv.parts" / "manifest.partial.json"
    (tmp_path / "a.csv.summary.json").rename(partial)
    status, _, err = run_main(arguments, capsys)
    assert status != 0 and len(err.splitlines()) == 1 and "Traceback" not in err
