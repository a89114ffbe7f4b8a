"""What operation does to the stage: changed sources, damaged files, workers that meet."""

import contextlib
import dataclasses
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from miro_jax import annotate
from miro_jax.annotate import models, origin
from miro_jax.annotate.publish import Assembly, SourceChanged
from miro_jax.data import storage
from miro_jax.data.records import shards
from miro_jax.data.shapes import world
from miro_jax.models import sharding
from tests.annotating import (
    Brightness,
    call,
    contents,
    make_pieces,
    open_paths,
    png,
    read_records,
    rewards,
    sample,
)
from tests.sources import write_tar

ROOT = pathlib.Path(__file__).parent.parent


pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture
def pieces(tmp_path):
    return make_pieces(tmp_path / "source")


@pytest.fixture
def whole(pieces, tmp_path):
    call(pieces, tmp_path / "whole")
    return contents(tmp_path / "whole")


class Meddling(Brightness):
    """Does something once, in the middle of the second piece."""

    def __init__(self, deed):
        super().__init__("length", True, "other")
        self.deed = deed

    def judge(self, features, captions):
        if self.deed and "picture 14" in captions:
            deed, self.deed = self.deed, None
            deed()
        return super().judge(features, captions)


def meddle(deed):
    first, _, third = rewards()
    return [first, Meddling(deed), third]


@pytest.mark.parametrize("kind", ["replaced", "cut"])
def test_a_piece_that_changes_meanwhile_is_not_published(pieces, whole, tmp_path, kind):
    before = pathlib.Path(pieces[1]).read_bytes()

    def deed():
        if kind == "cut":
            os.truncate(pieces[1], len(before) // 2)
        else:
            write_tar(pieces[1] + ".new", [m for i in range(10, 20) for m in sample(i, "another")])
            os.replace(pieces[1] + ".new", pieces[1])

    out = tmp_path / "out"
    with pytest.raises(SourceChanged, match="p1.tar changed while it was read"):
        call(pieces, out, meddle(deed))
    assert not (out / "shard-00001.array_record").exists()
    with pytest.raises(ValueError, match="pieces.p1.tar.bytes is 40960 there"):
        call(pieces, out)
    pathlib.Path(pieces[1]).write_bytes(before)
    call(pieces, out)
    assert contents(out) == whole


def test_groups_that_saw_different_pictures_are_not_joined(tmp_path):
    """Files of a folder are known by name and size."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(5):
        (folder / f"{i}.png").write_bytes(png(i))
        (folder / f"{i}.txt").write_text(f"picture {i}")
    given = {"paths": None, "out": tmp_path / "out", "source": f"folder:{folder}"}
    call(**given, stages="rewards")
    size = os.path.getsize(folder / "3.png")
    (folder / "3.png").write_bytes(png(7).ljust(size, b"x")[:size])
    assert os.path.getsize(folder / "3.png") == size
    with pytest.raises(SourceChanged, match="files-00000 changed"):
        call(**given, stages="encode")
    call(**given)
    assert read_records(tmp_path / "out")["3.png"].scores[0] == pytest.approx(7 / 255 / 100)


@pytest.mark.parametrize("seen", [(4, 3), (5, 4), (8, 4)])
def test_groups_that_saw_different_numbers_of_samples_are_not_joined(pieces, tmp_path, seen):
    """Of a piece whose fingerprint does not tell; where the shorter one ends, batches are alike."""
    source = open_paths(pieces[:1])
    (piece,) = source.pieces

    def sources_of(count):
        return dataclasses.replace(source, pieces=[piece.first(count, sign=lambda: "the same")])

    given = {"paths": None, "out": tmp_path / "out"}
    for stages, count in zip(("rewards", "encode"), seen, strict=True):
        with pytest.raises(SourceChanged) if stages == "encode" else contextlib.nullcontext():
            call(**given, source=sources_of(count), stages=stages)
    assert call(**given, source=sources_of(seen[1])).num_records == seen[1]


def test_a_set_that_somebody_mends_is_not_complete(pieces, whole, tmp_path):
    """Its parts must not be deleted under a worker."""
    call(pieces, tmp_path / "out")
    folder = storage.open_folder(tmp_path / "out")
    assert origin.is_complete(folder)
    (tmp_path / "out" / "manifest.partial.json").write_text("{}")
    assert not origin.is_complete(folder)
    call(pieces, tmp_path / "out")
    assert contents(tmp_path / "out") == whole


def test_a_set_that_is_taken_up_again_is_never_without_its_origin(pieces, whole, tmp_path):
    out = tmp_path / "out"
    call(pieces, out)
    (out / "shard-00001.array_record").unlink()
    (out / "parts").write_text("in the way")
    with pytest.raises(OSError, match="parts"):
        call(pieces, out)
    (out / "parts").unlink()
    call(pieces, out)
    assert contents(out) == whole


@pytest.mark.parametrize("one_by_one", [True, False])
@pytest.mark.parametrize("stages", ["rewards", "encode"])
def test_a_damaged_part_in_the_middle_heals(pieces, whole, tmp_path, stages, one_by_one):
    out = tmp_path / "out"
    call(pieces, out, stages=stages)
    (out / "parts" / "00001" / f"{stages}-00000004+4.part").write_bytes(b"")
    call(pieces, out, one_by_one=one_by_one)
    assert contents(out) == whole


def test_a_manifest_names_the_kernel_of_fused_attention(pieces, whole, tmp_path, monkeypatch):
    assert b"attention" not in whole["manifest.json"]  # as in sets made before
    monkeypatch.setattr(models.Toolbox, "make_mesh", lambda *_: sharding.one_device_mesh())
    monkeypatch.setattr(models, "resolve", lambda name, dtype: f"{name} of {dtype}")
    manifest = call(pieces, tmp_path / "fused", dtype="bfloat16")
    assert manifest.configuration["attention"] == "auto of bfloat16"


def test_a_note_of_models_that_is_missing_is_made_again(pieces, whole, tmp_path):
    out = tmp_path / "out"
    call(pieces, out, stages="rewards")
    (out / "parts" / "rewards.json").unlink()
    call(pieces, out, stages="encode")
    assert not list(out.glob("*.array_record"))
    call(pieces, out)
    assert contents(out) == whole


@pytest.mark.parametrize("whose", ["a piece", "the set"])
def test_a_worker_that_comes_late_harms_nothing(pieces, whole, tmp_path, monkeypatch, whose):
    """Others publish the piece, or finish the set, while it is about to write."""
    out, write = tmp_path / "out", Assembly._write

    def late(self, piece, piece_id):
        monkeypatch.setattr(Assembly, "_write", write)
        call(pieces, out, pieces=[0] if whose == "a piece" else None)
        return write(self, piece, piece_id)

    monkeypatch.setattr(Assembly, "_write", late)
    call(pieces, out, pieces=[0])
    call(pieces, out)
    assert contents(out) == whole


def test_a_worker_that_is_overtaken_between_its_files_harms_nothing(
    pieces, whole, tmp_path, monkeypatch
):
    out, create = tmp_path / "out", storage.LocalFolder.create

    def late(self, name, path):
        if name.endswith("00000.array_record"):
            monkeypatch.setattr(storage.LocalFolder, "create", create)
            call(pieces, out)
        return create(self, name, path)

    monkeypatch.setattr(storage.LocalFolder, "create", late)
    call(pieces, out, pieces=[0])
    assert contents(out) == whole


RACE = """
import os, sys
from tests.annotating import call, contents

pieces, out = sys.argv[1].split(","), sys.argv[2]
for trial in range(6):
    children = []
    for worker in range(3):
        child = os.fork()
        if not child:
            os.fsync = lambda descriptor: None
            call(pieces, f"{out}{trial}", batch_size=3)
            os._exit(0)
        children.append(child)
    print(*(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children), flush=True)
"""


@pytest.mark.slow
def test_workers_that_do_all_the_same_at_once_all_succeed(pieces, whole, tmp_path):
    command = [sys.executable, "-c", RACE, ",".join(pieces), str(tmp_path / "race")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.stdout.split() == ["0"] * 18, done.stderr
    for trial in range(6):
        assert contents(tmp_path / f"race{trial}") == whole


def test_models_may_be_grouped_anew_between_runs(pieces, whole, tmp_path):
    out = tmp_path / "out"
    call(pieces, out, pieces=[0, 1])
    call(pieces, out, groups=[("one", ["brightness", "length", "short", "image", "captions"])])
    found = contents(out)
    assert json.loads(found["manifest.json"]) == json.loads(whole["manifest.json"])
    for number in range(3):
        shard = f"shard-{number:05d}.array_record"
        assert found[shard] == whole[shard]


def test_parts_of_unknown_origin_are_refused(pieces, tmp_path):
    out = tmp_path / "out"
    call(pieces, out, stages="rewards")
    (out / "manifest.partial.json").unlink()
    with pytest.raises(ValueError, match="holds shards or a folder 'parts'"):
        call(pieces, out)
    (tmp_path / "mine" / "parts").mkdir(parents=True)  # of somebody else
    (tmp_path / "mine" / "parts" / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="Delete the folder or name another"):
        call(pieces, tmp_path / "mine")
    assert (tmp_path / "mine" / "parts" / "thesis.txt").exists()


def test_only_our_own_leftovers_are_deleted(pieces, whole, tmp_path):
    out = tmp_path / "out"
    call(pieces, out)
    (out / SHARD).unlink()  # it is made again, and the set is finished
    (out / "notes.tmp-1").write_text("mine")
    (out / f"bins.json.tmp-{'0' * 32}").write_text("a killed writer's")
    call(pieces, out)
    assert contents(out) == whole | {"notes.tmp-1": b"mine"}


SHARD = "shard-00001.array_record"


@pytest.mark.parametrize("ending", ["", ".json", ".scores.npy"])
def test_a_complete_set_has_all_that_belongs_to_its_shards(pieces, whole, tmp_path, ending):
    out = tmp_path / "out"
    call(pieces, out)
    (out / f"{SHARD}{ending}").unlink()
    call(pieces, out)
    assert contents(out) == whole


@pytest.mark.parametrize("data", [b"", b"{", b"{}", b"[]", b"\x93NUMPY\x01\x00"])
@pytest.mark.parametrize(
    "name", [SHARD, f"{SHARD}.json", f"{SHARD}.scores.npy", "manifest.json", "bins.json"]
)
def test_a_damaged_file_is_named_or_made_again(pieces, whole, tmp_path, name, data):
    out = tmp_path / "out"
    call(pieces, out)
    (out / name).write_bytes(data)
    if name == "bins.json":
        call(pieces, out)
        assert contents(out) == whole
        return
    about = name if name == "manifest.json" else SHARD
    with pytest.raises(storage.Damaged, match=rf"{out}/{about}.* (is damaged|must be)"):
        call(pieces, out)
    if name != "manifest.json":
        (out / SHARD).unlink()  # as the text says
        call(pieces, out)
        assert contents(out) == whole


@pytest.mark.parametrize("name", ["manifest.partial.json", "parts/rewards.json"])
def test_a_damaged_note_of_a_set_in_the_making_is_named(pieces, tmp_path, name):
    call(pieces, tmp_path, stages="rewards")
    (tmp_path / name).write_bytes(b"{")
    with pytest.raises(storage.Damaged, match=f"{name} is damaged"):
        call(pieces, tmp_path, batch_size=5)


def test_scores_that_are_not_the_shards_own_are_noticed(pieces, tmp_path):
    call(pieces, tmp_path)
    path = tmp_path / f"{SHARD}.scores.npy"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(storage.Damaged, match="do not have their digest"):
        shards.read_scores(tmp_path)


def test_a_damaged_shard_in_the_way_of_a_worker_is_named(pieces, tmp_path):
    call(pieces, tmp_path)
    (tmp_path / SHARD).write_bytes(b"x")
    (tmp_path / f"{SHARD}.json").unlink()
    with pytest.raises(storage.Damaged, match=f"{SHARD} is damaged.*Delete"):
        call(pieces, tmp_path)


def test_a_full_disk_is_named_and_the_same_command_goes_on(tmp_path, capsys, monkeypatch):
    world.write_shards(tmp_path / "source", 12, 16, 6)
    arguments = [f"--source=tar:{tmp_path}/source/*.tar", f"--out={tmp_path}/out"]
    arguments += ["--rewards=beauty", "--image-encoder=pixels:size=16"]
    replace, count = os.replace, [0]

    def full(source, target):
        count[0] += 1
        if count[0] == 3:
            raise OSError(28, "No space left on device", source)
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        assert annotate.main(arguments) == 1
    err = capsys.readouterr().err.splitlines()[-1]
    assert "the disk is full" in err and f"{tmp_path}/out/" in err
    assert err.endswith("Make room; the same command then resumes from here.")
    assert not list((tmp_path / "out").rglob("*.tmp-*"))
    assert annotate.main(arguments) == 0
    shutil.copytree(tmp_path / "out", tmp_path / "first")
    assert annotate.main([*arguments[:1], f"--out={tmp_path}/again", *arguments[2:]]) == 0
    assert contents(tmp_path / "first") == contents(tmp_path / "again")


def test_a_run_that_cannot_start_leaves_nothing_that_others_must_agree_with(pieces, tmp_path):
    class Unloadable(Brightness):
        @property
        def needs_caption(self):
            raise FileNotFoundError("its weights")

        @needs_caption.setter
        def needs_caption(self, value):
            pass

    with pytest.raises(FileNotFoundError, match="its weights"):
        call(pieces, tmp_path / "out", [Unloadable()])
    call(pieces, tmp_path / "out", [Brightness("other")])


def test_the_list_of_failures_is_there_where_they_are_too_many(tmp_path):
    members = [m for i in range(4) for m in sample(i, image=b"" if i < 3 else None)]
    with pytest.raises(RuntimeError, match="3 of 4 did"):
        call([write_tar(tmp_path / "a.tar", members)], tmp_path / "out")
    assert len((tmp_path / "out" / "failures.jsonl").read_text().splitlines()) == 3


def test_each_pass_is_measured_and_other_levels_are_said(pieces, tmp_path, capsys):
    out = tmp_path / "out"
    call(pieces, out, one_by_one=True)
    err = capsys.readouterr().err
    assert "\nrewards: 30 images in" in err and "\nencode: 30 images in" in err
    call(pieces, out, num_bins=8)
    assert (
        "levels are fitted anew: 4 (quantile) before, 8 (quantile) now" in capsys.readouterr().err
    )
