"""What ten thousand pieces in an object store cost: requests at a time, and none that one saves."""

import collections
import dataclasses
import threading
import time
import uuid

import numpy as np
import pytest

from benchmarks import annotate_merge
from miro_jax import annotate
from miro_jax.annotate import finish, work
from miro_jax.annotate import plan as plans
from miro_jax.data.records import shards
from miro_jax.data.sources import Tables, reading
from miro_jax.data.storage import Damaged, LocalFolder, RemoteFolder, open_folder
from miro_jax.data.storage.ahead import THREADS, map_ahead
from miro_jax.data.storage.files import to_sealed_json
from miro_jax.score import inputs, run
from miro_jax.score import plan as score_plans
from miro_jax.score.settings import Settings as ScoreSettings
from tests.scoring import Brightness, file_bytes, grey, make_folder
from tests.sources import write_tar

PIECES = 40
pytestmark = pytest.mark.usefixtures("no_flush")


class Requests:
    """What a store is asked, by kind, and how many are under way at once at most."""

    def __init__(self, monkeypatch):
        self.counts, self.most, self._now = collections.Counter(), 0, 0
        self._lock = threading.Lock()
        for name in ("_exists", "_size", "read", "_list"):
            monkeypatch.setattr(
                RemoteFolder, name, self._watched(name, getattr(RemoteFolder, name))
            )

    def _watched(self, name, method):
        def watched(*arguments):
            with self._lock:
                self.counts[name] += 1
                self._now += 1
                self.most = max(self.most, self._now)
            time.sleep(0.005)
            try:
                return method(*arguments)
            finally:
                with self._lock:
                    self._now -= 1

        return watched

    def take(self):
        """The number of requests since the last call, and the most at once."""
        taken = self.counts.total(), self.most
        self.counts.clear()
        self.most = 0
        return taken


@pytest.fixture
def requests(monkeypatch):
    return Requests(monkeypatch)


@pytest.fixture
def job(monkeypatch):
    """Of forty pieces of two records, into a store."""
    monkeypatch.setattr(annotate_merge, "REWARDS", ("sharpness", "colors"))
    settings = annotate.Settings(
        source=annotate_merge.make_source(PIECES, 2),
        out=f"memory://{uuid.uuid4().hex}/out",
        rewards=annotate_merge.REWARDS,
        image_encoder="pixels:size=16",
        caption_encoder="words",
        max_failure_rate=1.0,
        pieces="all",
    )
    return plans.plan(settings)


def test_a_start_asks_for_no_piece_of_an_empty_folder(job, requests, monkeypatch):
    monkeypatch.setattr(work, "Run", lambda *_: pytest.fail("loaded", pytrace=False))
    with pytest.raises(pytest.fail.Exception, match="loaded"):
        work.work_on(job, "annotate")
    assert requests.take()[0] < PIECES / 4


def test_published_pieces_are_read_many_at_a_time(job, requests):
    annotate_merge.write_pieces(job, 2, np.random.default_rng(0))
    requests.take()
    for step, most in (
        (lambda: work.work_on(job, "annotate"), 1),  # each sidecar, once in all
        (job.require_all, 0),
        (lambda: finish.describe_unfinished(job), 0),
        (lambda: finish.gather(job), 1),
    ):
        step()
        number, at_once = requests.take()
        assert number <= most * PIECES + 8, step
        assert at_once > THREADS / 4 or not most, step
    assert finish.merge(job).num_records == 2 * PIECES


def test_a_sidecar_that_another_worker_replaces_or_deletes_is_seen(job, requests):
    annotate_merge.write_pieces(job, 2, np.random.default_rng(0))
    other = open_folder(str(job.folder))
    assert not job.missing_pieces(job.pieces)
    name = "shard-00007.array_record"
    changed = shards.read_sidecar(other, name) | {"bytes": 1, "note": "longer"}
    other.write(f"{name}.json", to_sealed_json(changed))
    other.remove("shard-00009.array_record.json")
    requests.take()
    assert job.missing_pieces(job.pieces) == [7, 9]
    assert requests.take()[0] == 3  # the listing, and both sidecars
    for number in (7, 9):
        other.write(
            f"shard-{number:05d}.array_record.json", to_sealed_json({**changed, "bytes": 0})
        )
    assert not job.missing_pieces(job.pieces)
    other.write(f"{name}.json", b"{}")
    with pytest.raises(Damaged, match=r"shard-00007\S+ is damaged"):
        finish.gather(job)


def test_headers_of_scores_are_parsed_one_at_a_time(job, monkeypatch):
    load, parsing = np.load, threading.Lock()

    def alone(*arguments, **options):
        assert parsing.acquire(blocking=False)
        time.sleep(0.002)
        parsing.release()
        return load(*arguments, **options)

    annotate_merge.write_pieces(job, 2, np.random.default_rng(0))
    monkeypatch.setattr(np, "load", alone)
    assert len(finish.gather(job).scores) == PIECES


@pytest.mark.over_a_second
def test_a_table_is_written_from_pieces_that_are_read_many_at_a_time(
    tmp_path, requests, monkeypatch
):
    monkeypatch.setattr(inputs, "IMAGES_PER_PIECE", 1)
    out = f"memory://{uuid.uuid4().hex}/table.csv"
    folder, rewards = make_folder(tmp_path / "in", PIECES), [Brightness()]
    settings = ScoreSettings(path=folder, rewards=rewards, out=out, pieces="all")
    job = score_plans.plan(settings)
    work.work_on(job, "score")
    requests.take()
    for step, most in (
        (lambda: work.work_on(job, "score"), 1),
        (lambda: run._write_table(job, ["brightness@test1"]), 2),
    ):
        step()
        number, at_once = requests.take()
        assert number <= most * PIECES + 10 and at_once > THREADS / 4, step
    keys = [line.split(b",")[0] for line in job.home.read(job.name).splitlines()[1:]]
    assert keys == [f"{i:03d}.png".encode() for i in range(PIECES)]


def test_tar_files_are_signed_once_before_they_are_scored(tmp_path, monkeypatch):
    signed, sign = collections.Counter(), reading.fingerprint

    def count(path):
        signed[path] += 1
        return sign(path)

    monkeypatch.setattr(reading, "fingerprint", count)
    paths = [str(tmp_path / f"{number}.tar") for number in range(3)]
    for path in paths:
        write_tar(path, [("a.png", file_bytes(grey(9)))])
    out = tmp_path / "table.csv"
    job = score_plans.plan(ScoreSettings(path=paths, rewards=[Brightness()], out=out, pieces="all"))
    assert signed == dict.fromkeys(paths, 1)
    write_tar(paths[1], [("a.png", file_bytes(grey(8)))])
    with pytest.raises(OSError, match="1.tar changed while it was read"):
        work.work_on(job, "score")


def test_of_several_pieces_that_are_missing_the_first_is_named(job):
    annotate_merge.write_pieces(job, 2, np.random.default_rng(0))
    for number in (33, 7, 20):
        job.folder.remove(f"shard-{number:05d}.array_record.scores.npy")
    with pytest.raises(FileNotFoundError, match=r"shard-00007\S+ is missing"):
        finish.gather(job)
    with pytest.raises(RuntimeError, match=r"3 are not \(0 of them are begun\).*=7,20,33$"):
        job.require_all()


def test_no_text_names_them_all(job, tmp_path):
    words = [str(tmp_path / f"{number}.tax") for number in range(10_000)]
    with pytest.raises(
        ValueError, match=r"1.tax \S+2.tax \.{4} .* 9,997 more are missing"
    ) as refused:
        inputs.open_input(words, None, Tables())
    assert len(str(refused.value)) < 1500
    settings = dataclasses.replace(job.settings, pieces=range(10_000))
    with pytest.raises(ValueError, match=r"in 0 .. 39; got 40, 41, 42, \.\.\.\.$"):
        plans.choose_pieces(settings, job.source)
    with pytest.raises(RuntimeError, match=r"40 are not .*=0,1,2.*,19,\.\.\.$"):
        job.require_all()
    tars = [str(tmp_path / f"{number}.tar") for number in range(9)]
    for path in tars:
        write_tar(path, [("a.png", file_bytes(grey(9)))])
    source = inputs.open_input(tars, None, Tables())
    assert source.spec == f"tar:{tars[0]} tar:{tars[1]} tar:{tars[2]} ..."


def test_results_come_in_order_and_the_first_error_ends_what_has_not_begun():
    begun = []

    def half(number):
        begun.append(number)
        time.sleep(0.02 if number in (0, 5) else 0)
        if number >= 5:
            raise ValueError(number)
        return number / 2

    found = map_ahead(half, range(10_000))
    assert [next(found) for _ in range(5)] == [0, 0.5, 1, 1.5, 2]
    with pytest.raises(ValueError, match="^5$"):
        next(found)
    assert len(begun) <= 5 + 2 * THREADS


def test_a_listed_folder_knows_what_was_there_and_what_it_deletes(tmp_path):
    for folder in (LocalFolder(tmp_path / "a"), open_folder(f"memory://{uuid.uuid4().hex}/a")):
        for name in ("x", "in/y", "in/z", "other/w"):
            folder.write(name, name.encode())
        listed = folder.listed("in")
        folder.write("late", b"")
        folder.remove("x")
        there = [name for name in ("x", "in/y", "in/z", "late") if listed.exists(name)]
        assert there == ["x", "in/y", "in/z"] and listed.size("in/y") == 4
        listed.remove("in/y")
        assert not listed.exists("in/y") and not folder.exists("in/y")
        with pytest.raises(FileNotFoundError, match=r"in/y"):
            listed.size("in/y")
        assert folder.folders() == ["in", "other"] and folder.stamps("in")["z"][0] == 4
        assert folder.stamps("none") == {} and folder.folders("none") == []
