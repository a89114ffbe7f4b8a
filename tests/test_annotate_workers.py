"""Many workers on one set: who takes which pieces, and that the result is always the same."""

import json
import uuid

import numpy as np
import pytest

from miro_jax.annotate import parts, work, workers
from miro_jax.annotate.batches import Batch
from miro_jax.annotate.finish import merge
from miro_jax.data import storage
from miro_jax.data.storage.claim import Claim
from tests.annotating import (
    SIZE,
    Brightness,
    call,
    contents,
    make_pieces,
    read_failures,
    read_records,
    rewards,
)

pytestmark = pytest.mark.usefixtures("no_flush")


@pytest.fixture(scope="module")
def pieces(tmp_path_factory):
    return make_pieces(tmp_path_factory.mktemp("source"), num_pieces=5, num_samples=7)


@pytest.fixture(scope="module")
def whole(pieces, tmp_path_factory):
    out = tmp_path_factory.mktemp("whole") / "out"
    call(pieces, out)
    return contents(out)


SLURM = {"SLURM_ARRAY_TASK_ID": "7", "SLURM_ARRAY_TASK_COUNT": "3", "SLURM_ARRAY_TASK_MIN": "3"}


@pytest.mark.parametrize(
    ("environment", "given", "expected"),
    [
        ({}, {}, range(10)),
        ({}, {"pieces": "4"}, [4]),
        ({}, {"pieces": "2-4,9, 0"}, [2, 3, 4, 9, 0]),
        ({}, {"worker_index": 1, "num_workers": 4}, [1, 5, 9]),
        ({"JOB_COMPLETION_INDEX": "2", "NUM_WORKERS": "3"}, {}, [2, 5, 8]),
        ({"JOB_COMPLETION_INDEX": "2"}, {"num_workers": 5}, [2, 7]),
        ({"JOB_COMPLETION_INDEX": "2", "NUM_WORKERS": "3"}, {"pieces": "all"}, range(10)),
        (SLURM | {"SLURM_ARRAY_TASK_STEP": "2"}, {}, [2, 5, 8]),
        ({"SLURM_ARRAY_TASK_ID": "1", "SLURM_ARRAY_TASK_COUNT": "20"}, {}, [1]),
        ({"SLURM_ARRAY_TASK_ID": "15", "SLURM_ARRAY_TASK_COUNT": "20"}, {}, []),
        ({"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "a,b,c,d"}, {}, [1, 5, 9]),
        ({"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "localhost"}, {}, range(10)),
        ({"JOB_COMPLETION_INDEX": "1", "NUM_WORKERS": "2", **SLURM}, {}, [1, 3, 5, 7, 9]),
    ],
)
def test_a_worker_finds_out_which_pieces_are_its_own(environment, given, expected):
    share = workers.choose(10, environment, **given)
    assert share.pieces == tuple(expected) and share.why


@pytest.mark.parametrize(
    ("environment", "given", "text"),
    [
        ({}, {"pieces": "10"}, "0 .. 9"),
        ({}, {"pieces": "4-2"}, "ascending"),
        ({}, {"pieces": "a"}, "'a'"),
        ({}, {"pieces": "1", "worker_index": 0}, "both"),
        ({}, {"worker_index": 0}, "NUM_WORKERS"),
        ({}, {"worker_index": 4, "num_workers": 4}, "0 .. 3; got 4"),
        ({"JOB_COMPLETION_INDEX": "0"}, {}, "NUM_WORKERS"),
        ({"JOB_COMPLETION_INDEX": "x"}, {}, "JOB_COMPLETION_INDEX must be a number"),
        (SLURM | {"SLURM_ARRAY_TASK_ID": "9"}, {}, "0 .. 2; got 6"),
    ],
)
def test_a_share_that_makes_no_sense_is_refused(environment, given, text):
    with pytest.raises(ValueError, match=text):
        workers.choose(10, environment, **given)


@pytest.mark.parametrize("count", [2, 5])
def test_workers_together_make_the_same_bytes(pieces, whole, tmp_path, count):
    out = tmp_path / "out"
    for index in reversed(range(count)):
        share = workers.choose(5, {}, worker_index=index, num_workers=count)
        assert call(pieces, out, pieces=share.pieces) is None
    assert not (out / "manifest.json").exists()
    call(pieces, out)
    assert contents(out) == whole


def test_merging_says_which_pieces_are_missing(pieces, tmp_path):
    call(pieces, tmp_path, pieces=[0, 2, 3])
    job = make_job(pieces, tmp_path)
    with pytest.raises(RuntimeError, match=r"All 5 pieces .* 2 are not .*--pieces=1,4"):
        merge(job)


def make_job(paths, out, **changes):
    """The job of `call`."""
    made = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("miro_jax.annotate.stage.execute", made.append)
        call(paths, out, **changes)
    return made[0]


@pytest.mark.parametrize("order", [("rewards", "encode"), ("encode", "rewards")])
def test_groups_of_models_may_run_one_after_the_other(pieces, whole, tmp_path, order):
    out = tmp_path / "out"
    first = rewards()
    assert call(pieces, out, first, stages=order[0]) is None
    assert not list(out.glob("*.array_record"))
    assert (out / "parts" / "00004").exists()
    assert call(pieces, out, first, stages=order[0]) is None  # nothing is done twice
    assert first[0].num_read == (35 if order[0] == "rewards" else 0)
    assert call(pieces, out, stages=order[1]) is None
    assert len(list(out.glob("*.array_record"))) == 5
    call(pieces, out)
    assert contents(out) == whole


@pytest.mark.over_a_second
def test_groups_may_be_loaded_one_by_one(pieces, whole, tmp_path):
    groups = [("light", ["brightness", "captions"]), ("rest", ["short", "image", "length"])]
    call(pieces, tmp_path / "out", groups=groups, one_by_one=True)
    changed = {"coverage.json", "bins.json", "stats.json", "failures.jsonl", "manifest.json"}
    found = contents(tmp_path / "out")
    assert {n: found[n] for n in changed} == {n: whole[n] for n in changed}
    for number in range(5):  # the sidecar names the groups
        shard = f"shard-{number:05d}.array_record"
        assert found[shard] == whole[shard]


class Crowd(Brightness):
    """How many pictures were in the batch: what floats may depend on."""

    def judge(self, features, captions):
        return np.full(len(captions), len(captions), np.float32)


class Picky(Brightness):
    preprocessing = "picky"

    def prepare(self, image):
        if image[0, 0, 0] in (3, 14):
            raise ValueError("not that shade of grey")
        return image[:SIZE, :SIZE]


@pytest.mark.over_a_second
def test_what_one_group_refuses_does_not_change_what_another_makes(pieces, tmp_path):
    """Neither where groups run together nor where one goes on alone after a kill."""
    groups = [("first", ["crowd", "captions"]), ("second", ["picky", "image"])]

    def go(out, **changes):
        chosen = [Crowd("crowd"), Picky("picky", tower="picky")]
        call(pieces, tmp_path / out, chosen, groups=groups, max_failure_rate=0.5, **changes)
        return contents(tmp_path / out)

    together = go("together")
    assert go("one by one", one_by_one=True) == together
    go("resumed", stages="second")
    assert go("resumed") == together
    scores = [record.scores[0] for record in read_records(tmp_path / "together").values()]
    assert len(scores) == 33 and set(scores) == {np.float32(0.04)}  # one size of batch
    causes = [failure["cause"] for failure in read_failures(tmp_path / "together")]
    assert causes == ["unfit for a model"] * 2


@pytest.mark.parametrize("first", ["one", "two", "one,two"])
def test_of_two_failures_of_a_sample_that_of_the_first_group_is_listed(pieces, tmp_path, first):
    bad = {"picture 3": np.nan}
    chosen = [Brightness(name, True, bad=bad) for name in ("early", "late")]
    groups = [("one", ["early", "image", "captions"]), ("two", ["late"])]
    given = {"groups": groups, "max_failure_rate": 0.5}
    call(pieces, tmp_path, chosen, stages=first, **given)
    call(pieces, tmp_path, chosen, **given)
    (failure,) = [f for f in read_failures(tmp_path) if f["key"].endswith("key0003")]
    assert (failure["cause"], failure["detail"]) == ("score not finite", "early@test1")


def test_other_models_in_the_same_folder_are_refused(pieces, tmp_path):
    call(pieces, tmp_path, pieces=[0])

    class Other(Brightness):
        synthetic_form = "short"

    changed = [Other(), *rewards()[1:]]
    changed[0].tower = "retrained"
    with pytest.raises(
        ValueError, match="rewards.json must name the models .* 'rewards'|retrained"
    ):
        call(pieces, tmp_path, changed, pieces=[1])


def test_two_workers_on_one_piece_do_not_harm_each_other(pieces, whole, tmp_path):
    """The second does everything between any two steps of the first."""
    out = tmp_path / "out"
    job = make_job(pieces, out, pieces=[0])
    job.claim.begin(job.request)
    interrupted = []

    class Interrupted(Brightness):
        def judge(self, features, captions):
            if not interrupted and "picture 5" in captions:
                interrupted.append(True)
                call(pieces, out, pieces=[0])
                assert job.sink.is_done(job.folder, 0)
            return super().judge(features, captions)

    first, _, third = rewards()
    call(pieces, out, [first, Interrupted("length", True, "other"), third], pieces=[0])
    assert interrupted
    call(pieces, out)
    assert contents(out) == whole


def test_parts_of_a_slower_worker_disappear(pieces, whole, tmp_path, monkeypatch):
    out = tmp_path / "out"
    save = parts.save_part

    def late(folder, part):
        if "rewards-00000004" in part.name:
            monkeypatch.setattr(parts, "save_part", save)
            call(pieces, out, pieces=[0])
        save(folder, part)

    monkeypatch.setattr(parts, "save_part", late)
    call(pieces, out, pieces=[0])
    assert not (out / "parts" / "00000").exists()
    call(pieces, out)
    assert contents(out) == whole


@pytest.mark.over_a_second
def test_a_damaged_part_is_made_again(pieces, whole, tmp_path):
    out = tmp_path / "out"
    call(pieces, out, stages="encode")
    for number, path in enumerate(sorted(out.glob("parts/*/*.part"))):
        if number % 3 == 0:
            path.write_bytes(path.read_bytes()[: -1 - number])
    call(pieces, out, stages="encode")
    call(pieces, out)
    assert contents(out) == whole


@pytest.mark.over_a_second
def test_another_batch_size_begins_the_unfinished_pieces_anew(pieces, whole, tmp_path):
    out = tmp_path / "out"
    call(pieces, out, stages="encode", batch_size=3)
    call(pieces, out)
    assert contents(out) == whole


def test_an_object_store_holds_the_same_bytes(pieces, whole):
    place = f"memory://{uuid.uuid4().hex}/records"
    call(pieces, place, pieces=[3, 1])
    call(pieces, place, stages="rewards")
    manifest = call(pieces, place)
    folder = storage.open_folder(place)
    assert {name: folder.read(name) for name in folder.names()} == whole
    assert folder.names("parts") == [] and call(pieces, place) == manifest


def test_sidecars_name_the_models_and_the_manifest_joins_them(pieces, whole):
    sidecar = json.loads(whole["shard-00000.array_record.json"])
    assert set(sidecar["models"]) == {"rewards", "encode"}
    configuration = json.loads(whole["manifest.json"])["configuration"]
    assert configuration["synthetic_forms"] == {
        "brightness@test1": None,  # it does not read captions
        "length@test1": "long",
        "short@test1": "short",
    }
    assert configuration["towers"]["length@test1"] == "other"
    assert configuration["image_encoder"] == f"pixels@1-size{SIZE}"
    assert configuration["rewards"] == ["brightness@test1", "length@test1", "short@test1"]


def test_pieces_of_different_models_do_not_become_one_set(pieces, tmp_path):
    call(pieces, tmp_path, pieces=range(4))
    (tmp_path / "parts" / "rewards.json").unlink()
    other = rewards()
    other[0].tower = "retrained"
    with pytest.raises(ValueError, match="same models; p4.tar and p0.tar"):
        call(pieces, tmp_path, other)


def test_a_part_reads_back(tmp_path):
    class Chunk:
        piece, start, count, last, failures = None, 0, 2, True, []

    batch = Batch([], [], {}, {}, None, (), [])
    part = work.make_part(Chunk, batch, {}, {}, "a.part", 0.5)
    assert parts.decode_part(parts.encode_part(part), "a.part") == part
    with pytest.raises(storage.Damaged, match="digest"):
        parts.decode_part(parts.encode_part(part)[:-1], "a.part")
    with pytest.raises(storage.Damaged, match="b.part is the file a.part"):
        parts.decode_part(parts.encode_part(part), "b.part")
    assert parts.load_part(storage.open_folder(tmp_path), "x.part") is None


def test_part_of_a_complete_set_is_not_made_again_with_other_models(pieces, tmp_path):
    call(pieces, tmp_path)
    (tmp_path / "shard-00001.array_record").unlink()
    other = rewards()
    other[0].tower = "retrained"
    with pytest.raises(ValueError, match="with mean for brightness@test1; loaded is retrained"):
        call(pieces, tmp_path, other)
    assert call(pieces, tmp_path).num_records == 35


def test_a_worker_that_begins_while_others_end_leaves_nothing(pieces, whole, tmp_path, monkeypatch):
    """The set is complete between its look at it and the note that it makes."""
    out, begin = tmp_path / "out", Claim.begin
    call(pieces, out, pieces=range(4))

    def late(claim, request, **options):
        monkeypatch.setattr(Claim, "begin", begin)
        call(pieces, out)
        begin(claim, request, **options)

    monkeypatch.setattr(Claim, "begin", late)
    call(pieces, out, pieces=[4])
    assert contents(out) == whole


def test_the_origin_of_a_set_stays_while_it_is_mended(pieces, whole, tmp_path, monkeypatch):
    """One worker mends and merges while another has seen that a shard is missing."""
    out, begin = tmp_path / "out", Claim.begin
    call(pieces, out)
    (out / "shard-00001.array_record").unlink()

    def late(claim, request, **options):
        monkeypatch.setattr(Claim, "begin", begin)
        call(pieces, out)
        begin(claim, request, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(Claim, "begin", late)
    with pytest.raises(KeyboardInterrupt):
        call(pieces, out, pieces=[1])
    call(pieces, out)
    assert contents(out) == whole
