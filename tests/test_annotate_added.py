"""A reward added to a finished set: as if it was there from the start; records are untouched."""

import json
import shutil

import numpy as np
import pytest

from miro_jax.annotate import added, origin
from miro_jax.annotate.settings import Settings
from miro_jax.data.records import shards
from miro_jax.data.records.batches import Options, make_iterator
from miro_jax.data.records.bins import Bins, fit_edges, levels
from miro_jax.data.records.manifest import Manifest
from miro_jax.data.storage import LocalFolder
from miro_jax.pretrained.encoders import build_image_encoder
from tests import annotating
from tests.annotating import Brightness, call, contents, make_pieces, open_paths

pytestmark = pytest.mark.usefixtures("no_flush")
OLD = Brightness


def new(**changes):
    return Brightness("length", True, "other", **changes)


def make_job(paths, base, out, reward=None, **changes):
    settings = Settings(
        source=open_paths(paths),
        out=out,
        rewards=(reward or new(),),
        image_encoder=build_image_encoder("pixels", size=annotating.SIZE),
        pieces="all",
        batch_size=4,
        **changes,
    )
    return added.plan(settings, base)


def add(*arguments, **changes):
    return added.execute(make_job(*arguments, **changes))


def make_options(synthetic):
    return Options(batch_size=8, seed=0, synthetic_caption_prob=synthetic, max_tokens=4)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Pieces of a source, a set of them with one reward, and that set with another one added."""
    folder = tmp_path_factory.mktemp("added")
    paths = make_pieces(folder / "source")
    call(paths, folder / "base", [OLD()])
    before = contents(folder / "base")
    add(paths, folder / "base", folder / "more")
    assert contents(folder / "base") == before
    return paths, folder / "base", folder / "more"


def test_scores_are_those_of_a_set_that_had_both_rewards_from_the_start(made, tmp_path):
    paths, base, more = made
    whole = call(paths, tmp_path / "both", [OLD(), new()])
    found, expected = shards.read_scores(more), shards.read_scores(tmp_path / "both")
    assert np.isnan(expected).any()  # every second record has no synthetic caption
    np.testing.assert_array_equal(found, expected)
    manifest = Manifest.load(more)
    assert manifest.rewards == whole.rewards and manifest.shards == whole.shards
    for key in ("towers", "synthetic_forms", "pieces", "source"):
        assert manifest.configuration[key] == whole.configuration[key]
    assert not list(more.glob("*.array_record")) and origin.is_complete(LocalFolder(more))
    assert json.loads((more / "stats.json").read_text())["captions"]["rewards"]["length@test1"]
    assert "length" in (more / "report.html").read_text()


def test_old_levels_stay_and_the_new_reward_gets_as_many(made):
    _, base, more = made
    old, both = Bins.load(base), Bins.load(more)
    np.testing.assert_array_equal(both.edges[:1], old.edges)
    scores = shards.read_scores(more)[..., 1].ravel()
    np.testing.assert_array_equal(both.edges[1], fit_edges(scores, old.num_bins))
    assert both.counts[:1] == old.counts and both.manifest_digest == Manifest.load(more).digest


@pytest.mark.parametrize("synthetic", [0.0, 1.0])
def test_batches_hold_the_levels_of_the_caption_in_use(made, synthetic):
    _, base, more = made
    fitted, scores = Bins.load(more), shards.read_scores(more)
    options = make_options(synthetic)
    data = make_iterator(more, fitted, ["brightness", "length"], options)
    for _ in range(3):
        batch = next(data)
        own, other = scores[batch["index"], 0], scores[batch["index"], 1]
        used = np.where(np.isnan(other) | (synthetic == 0), own, other)
        np.testing.assert_array_equal(batch["levels"], levels(fitted, used))
        assert batch["weight"].all()
    data.close()


def test_scores_are_joined_by_key_where_models_fail_on_different_samples(tmp_path):
    paths = make_pieces(tmp_path / "source")
    lost = {"picture 3": np.nan, "picture 14": np.nan}
    call(paths, tmp_path / "base", [Brightness(needs_caption=True, bad=lost)], max_failure_rate=1.0)
    unscored = {"picture 4": np.nan, "picture 14": np.nan, "picture 21": np.nan}
    reward = new(bad=unscored)
    add(paths, tmp_path / "base", tmp_path / "more", reward, max_failure_rate=0.5)
    scores = shards.read_scores(tmp_path / "more")[:, 0]
    left = [i for i in range(30) if i not in (3, 14)]
    assert len(scores) == len(left)
    expected = [(i % 256 / 255 + len(f"picture {i}")) / 100 for i in left]
    expected = np.where(np.isin(left, [4, 21]), np.nan, expected)
    np.testing.assert_allclose(scores[:, 1], expected, rtol=1e-6)
    listed = annotating.read_failures(tmp_path / "more")
    assert [one["key"].rpartition("/")[2] for one in listed] == ["key0004", "key0014", "key0021"]


def test_a_job_that_was_killed_resumes_to_the_same_bytes(made, tmp_path, monkeypatch):
    paths, base, more = made
    write, done = shards.write_beside, []

    def stop(folder, name, *rest):
        done.append(name)
        if len(done) == 2:
            raise KeyboardInterrupt
        return write(folder, name, *rest)

    out = more.parent / f"killed-{tmp_path.name}"  # beside the other: base.json is relative
    with monkeypatch.context() as patch:
        patch.setattr(shards, "write_beside", stop)
        with pytest.raises(KeyboardInterrupt):
            add(paths, base, out)
    assert not (out / "manifest.json").exists() and len(list(out.glob("*.npy"))) == 1
    reward = new()
    add(paths, base, out, reward)
    assert reward.num_read <= 20  # of 30; the first piece was published
    assert contents(out) == contents(more)
    add(paths, base, out)  # returns at once
    assert contents(out) == contents(more)


def test_workers_share_the_pieces(made, tmp_path):
    paths, base, more = made
    out = more.parent / f"shared-{tmp_path.name}"
    settings = make_job(paths, base, out).settings
    for pieces in ("0", "1-2"):
        job = added.plan(added.dataclasses.replace(settings, pieces=pieces), base)
        assert added.execute(job) is None
    add(paths, base, out)
    assert contents(out) == contents(more)


def test_a_set_is_extended_again(made, tmp_path):
    paths, base, more = made
    out = tmp_path / "third"
    add(paths, more, out, Brightness("short", True, form="short"))
    whole = tmp_path / "whole"
    call(paths, whole, annotating.rewards())
    np.testing.assert_array_equal(shards.read_scores(out), shards.read_scores(whole))
    assert shards.home_of(LocalFolder(out)).path.resolve() == base.resolve()
    assert [path.parent.resolve() for path in shards.verify_shards(out)] == [base.resolve()] * 3


def test_a_set_that_was_moved_is_missed_and_named_in_base_json(made, tmp_path):
    paths, base, more = made
    shutil.copytree(more, tmp_path / "copy")
    with pytest.raises(FileNotFoundError, match=r"extends the records in .*base\.json"):
        shards.verify_shards(tmp_path / "copy")
    (tmp_path / "copy" / "base.json").write_text(json.dumps({"records": str(base)}))
    assert len(shards.verify_shards(tmp_path / "copy")) == 3
    other = tmp_path / "other"
    call(paths, other, [new()])
    (tmp_path / "copy" / "base.json").write_text(json.dumps({"records": str(other)}))
    options = make_options(0.0)
    with pytest.raises(ValueError, match="extends other records than those"):
        make_iterator(tmp_path / "copy", Bins.load(more), ["brightness", "length"], options)


def test_what_does_not_fit_the_set_is_refused(made, tmp_path):
    paths, base, more = made
    with pytest.raises(ValueError, match="have scores of brightness@test1 already"):
        make_job(paths, base, tmp_path / "out", OLD())
    changed = OLD()
    changed.version = "test2"  # a target of this name would be of either
    with pytest.raises(
        ValueError, match="scores of brightness@test1 already; got brightness@test2"
    ):
        make_job(paths, base, tmp_path / "out", changed)
    with pytest.raises(ValueError, match="only there: .*p2.tar.* made of: config.source.spec.$"):
        make_job(paths[:2], base, tmp_path / "out")
    with pytest.raises(ValueError, match="a folder of their own"):
        make_job(paths, base, base)
    with pytest.raises(ValueError, match="rewards is .*length.* there"):
        make_job(paths, base, more, Brightness("short", True, form="short"))
    assert not (tmp_path / "out").exists()
