"""The annotate stage: complete sets, sets that go on, configurations."""

import dataclasses
import json
import os
import pathlib
import tempfile

import numpy as np
import pytest

from configs.base import get_config
from miro_jax import annotate
from miro_jax.annotate import work
from miro_jax.data.records import bins, shards
from miro_jax.data.records.manifest import Manifest
from miro_jax.data.storage import LocalFolder, files
from miro_jax.pretrained.encoders import build_caption_encoder, build_image_encoder
from miro_jax.rewards.failure import RewardFailed
from tests.annotating import (
    Brightness,
    call,
    contents,
    make_pieces,
    open_paths,
    read_records,
    rewards,
    sample,
)
from tests.sources import write_tar

ROOT = pathlib.Path(__file__).parent.parent


pytestmark = pytest.mark.usefixtures("no_flush")


def test_folder_holds_bins_and_stats_of_both_captions(tmp_path):
    out = tmp_path / "out"
    manifest = call(make_pieces(tmp_path / "source"), out)
    fitted = bins.Bins.load(out)
    assert fitted.names == manifest.rewards and fitted.manifest_digest == manifest.digest
    assert fitted.counts == (45, 45, 45)  # thirty captions and fifteen synthetic ones
    pooled = shards.read_scores(out).reshape(-1, 3)
    np.testing.assert_array_equal(fitted.edges[1], bins.fit_edges(pooled[:, 1], 4))
    stats = json.loads((out / "stats.json").read_text())
    assert stats["captions"]["rewards"]["length@test1"]["count"] == 30
    assert stats["synthetic_captions"]["rewards"]["length@test1"]["count"] == 15
    assert {p.name for p in out.iterdir()} == {
        "manifest.json", "bins.json", "stats.json", "failures.jsonl", "coverage.json",
        "report.html",
        *(f"shard-0000{i}.array_record{e}" for i in range(3) for e in ("", ".json", ".scores.npy")),
    }  # fmt: skip


def test_too_many_failures_stop_the_run_with_their_causes_and_keep_what_is_done(tmp_path):
    members = [m for i in range(8) for m in sample(i, image=b"" if i < 3 else None)]
    members += sample(8, caption="")
    path, out = write_tar(tmp_path / "a.tar", members), tmp_path / "out"
    with pytest.raises(RuntimeError) as caught:
        call([path], out, max_failure_rate=0.2)
    for text in (
        "20.00%",
        "4 of 9",
        "missing image (3)",
        "missing caption (1)",
        "a.tar/key0000 in a.tar",
    ):
        assert text in str(caught.value)
    assert not (out / "manifest.json").exists()
    chosen = rewards()
    assert call([path], out, chosen, max_failure_rate=0.5).num_records == 5
    assert chosen[0].num_read == 0


def test_failures_of_pieces_that_are_done_count_when_a_run_resumes(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "MIN_SAMPLES", 4)
    pieces, out = make_pieces(tmp_path / "source", 3, 8), tmp_path / "out"
    bad = {f"picture {i}": np.nan for i in range(8)}
    chosen = [Brightness("length", True, bad=bad)]
    call(pieces, out, chosen, pieces=[0], max_failure_rate=1.0)
    with pytest.raises(RuntimeError, match="8 of 12 did"):  # after the first batch
        call(pieces, out, chosen, max_failure_rate=0.5)
    assert not (out / "shard-00002.array_record").exists()


def test_a_set_without_any_record_is_refused(tmp_path):
    path = write_tar(tmp_path / "a.tar", sample(0, caption=""))
    with pytest.raises(RuntimeError, match="missing caption"):
        call([path], tmp_path / "out", max_failure_rate=1.0)


def test_manifest_is_published_last(tmp_path, monkeypatch):
    published = []
    rename = os.replace
    monkeypatch.setattr(os, "replace", lambda a, b: (published.append(str(b)), rename(a, b)))
    call(make_pieces(tmp_path / "source"), tmp_path / "out")
    assert published[-1].endswith("/manifest.json")
    assert {"bins.json", "stats.json", "failures.jsonl", "coverage.json"} <= {
        path.rpartition("/")[2] for path in published
    }


def test_complete_set_is_returned_at_once(tmp_path):
    pieces, out = make_pieces(tmp_path / "source"), tmp_path / "out"
    first = call(pieces, out)
    before = {p: p.stat().st_mtime_ns for p in out.iterdir()}
    chosen = rewards()
    assert call(pieces, out, chosen) == first
    assert chosen[0].num_read == 0
    assert {p: p.stat().st_mtime_ns for p in out.iterdir()} == before


def test_other_bins_are_fitted_without_scoring_again(tmp_path):
    pieces, out = make_pieces(tmp_path / "source"), tmp_path / "out"
    call(pieces, out)
    chosen = rewards()
    call(pieces, out, chosen, num_bins=8)
    assert bins.Bins.load(out).num_bins == 8 and chosen[0].num_read == 0
    call(pieces, tmp_path / "fresh", num_bins=8)
    assert contents(out) == contents(tmp_path / "fresh")


@pytest.mark.parametrize("complete", [True, False])
@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"reward_list": [Brightness()]}, "rewards"),
        ({"caption_encoder": build_caption_encoder("words", width=8)}, "caption_encoder"),
        ({"image_encoder": build_image_encoder("pixels", size=8)}, "image_encoder .*; image_size"),
        ({"encode_512": True}, "encode_512"),
        ({"facts": {"kind": "shapes", "seed": 1}}, "source"),
        ({"paths": 2}, "pieces"),
    ],
)
def test_set_of_another_configuration_is_refused(tmp_path, change, field, complete):
    pieces, out = make_pieces(tmp_path / "source"), tmp_path / "out"
    call(pieces, out)
    if not complete:
        configuration = Manifest.load(out).configuration
        (out / "manifest.json").unlink()
        (out / "manifest.partial.json").write_text(
            json.dumps(configuration | {"encode_512": False})
        )
    before, change = contents(out), dict(change)
    source = open_paths(pieces[: change.pop("paths", 3)])
    facts = change.pop("facts", source.facts)
    change["source"] = dataclasses.replace(source, facts=facts)
    with pytest.raises(
        ValueError, match=f"belongs to another request: .*{field}.*delete"
    ) as caught:
        call(pieces, out, **change)
    assert str(out) in str(caught.value)
    assert contents(out) == before


@pytest.mark.parametrize("pieces", [None, [0]])
def test_a_set_with_second_latents_is_not_one_without(tmp_path, pieces):
    paths = make_pieces(tmp_path / "source", 2, 3)
    call(paths, tmp_path / "out", encode_512=True, pieces=pieces)
    with pytest.raises(ValueError, match="encode_512 is true there, false here"):
        call(paths, tmp_path / "out")


def test_changed_source_file_is_refused(tmp_path):
    pieces, out = make_pieces(tmp_path / "source"), tmp_path / "out"
    call(pieces, out)
    size = os.path.getsize(pieces[2])
    write_tar(pieces[2], [m for i in range(20, 30) for m in sample(i, caption="other", seen=1)])
    assert os.path.getsize(pieces[2]) == size
    with pytest.raises(ValueError, match="pieces"):
        call(pieces, out)


def test_a_set_of_the_first_schema_version_is_complete(tmp_path):
    pieces, out = make_pieces(tmp_path / "source"), tmp_path / "out"
    call(pieces, out)
    values = json.loads((out / "manifest.json").read_text()) | {"schema_version": 1}
    del values[files.SEAL]
    for name in ("towers", "synthetic_forms", "encode_512"):
        del values["configuration"][name]
    (out / "manifest.json").write_text(json.dumps(values))
    for path in out.glob("*.array_record.json"):
        facts = json.loads(path.read_text())
        failures = [{k: v for k, v in f.items() if k != "position"} for f in facts["failures"]]
        del facts["models"], facts["seal"]
        path.write_text(json.dumps(facts | {"failures": failures}))
    for name in ("coverage.json", "report.html"):
        (out / name).unlink()
    chosen = rewards()
    manifest = call(pieces, out, chosen, num_bins=8)
    assert manifest.schema_version == 1 and chosen[0].num_read == 0
    assert bins.Bins.load(out).num_bins == 8 and not (out / "report.html").exists()
    with pytest.raises(ValueError, match="rewards is .* there"):
        call(pieces, out, [Brightness()])


def test_source_may_be_moved(tmp_path):
    pieces, out = make_pieces(tmp_path / "source"), tmp_path / "out"
    first = call(pieces, out)
    (tmp_path / "source").rename(tmp_path / "elsewhere")
    moved = [str(tmp_path / "elsewhere" / os.path.basename(path)) for path in pieces]
    assert call(moved, out) == first


def test_deleted_shard_is_made_again(tmp_path):
    pieces, out = make_pieces(tmp_path / "source"), tmp_path / "out"
    call(pieces, out)
    before = contents(out)
    (out / "shard-00001.array_record").unlink()
    chosen = rewards()
    call(pieces, out, chosen)
    assert chosen[0].num_read == 10
    assert contents(out) == before


def test_the_sidecar_of_a_deleted_shard_is_not_taken_for_that_of_the_next(tmp_path, monkeypatch):
    """Sizes do not tell them apart: files of records are filled up to 64 KiB."""
    pieces, out = make_pieces(tmp_path / "source", 1), tmp_path / "out"
    call(pieces, out, [Brightness(bad={"picture 3": np.nan})], max_failure_rate=1.0)
    (out / "shard-00000.array_record").unlink()
    write = LocalFolder.write

    def killed(folder, name, data, durable=True):
        if name.endswith(".scores.npy"):
            raise KeyboardInterrupt
        write(folder, name, data, durable)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(LocalFolder, "write", killed)
        call(pieces, out, [Brightness()])
    call(pieces, out, [Brightness()])
    (path,) = shards.verify_shards(out, full=True)
    sidecar = shards.read_sidecar(LocalFolder(out), path.name)
    assert len(read_records(out)) == sidecar["count"] == 10


def test_complete_set_need_not_be_writable(tmp_path, monkeypatch):
    pieces, out = make_pieces(tmp_path / "source"), tmp_path / "out"
    first = call(pieces, out)

    def refuse(*arguments, **keywords):
        raise PermissionError(13, "Permission denied")

    for module, name in (
        (tempfile, "TemporaryFile"),
        (tempfile, "mkdtemp"),
        (os, "replace"),
        (os, "unlink"),
    ):
        monkeypatch.setattr(module, name, refuse)
    assert call(pieces, out) == first


def test_shards_of_unknown_origin_are_refused(tmp_path):
    pieces, out = make_pieces(tmp_path / "source"), tmp_path / "out"
    call(pieces, out)
    (out / "manifest.json").unlink()
    with pytest.raises(ValueError, match="manifest.partial.json"):
        call(pieces, out)


def test_a_folder_of_other_files_such_as_the_images_is_refused(tmp_path):
    pieces, out = make_pieces(tmp_path / "source"), tmp_path / "out"
    out.mkdir()
    (out / ".hidden").write_text("")  # of a file system, say
    (out / "report.html").write_text("somebody's")
    with pytest.raises(ValueError, match=r"must be new or empty; .* holds report.html. Name"):
        call(pieces, out)
    assert (out / "report.html").read_text() == "somebody's"
    (out / "report.html").unlink()
    call(pieces, out)


def test_folder_that_cannot_be_written_is_named_before_any_work(tmp_path):
    (tmp_path / "file").touch()
    chosen = rewards()
    with pytest.raises(PermissionError, match="file/out must be a folder"):
        call(make_pieces(tmp_path / "source"), tmp_path / "file" / "out", chosen)
    assert chosen[0].num_read == 0


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"batch_size": 0}, "batch_size"),
        ({"max_failure_rate": 1.5}, "max_failure_rate"),
        ({"num_bins": 1}, "num_bins"),
        ({"bins_strategy": "nearest"}, "quantile"),
        ({"source": "tar:/nowhere/a.tar"}, "/nowhere/a.tar"),
        ({"pieces": [0, 1]}, r"0 \.\. 0; got 1\.$"),
        ({"stages": "rewards,encoding"}, "rewards, encode, as text .*; got encoding"),
        ({"groups": [("all", ["brightness", "image", "captions"])]}, "each of"),
        ({"groups": [("a b", ["brightness", "length", "short", "image", "captions"])]}, "letters"),
        ({"rewards": ["beauty", "taste"]}, "taste"),
        ({"rewards": ["beauty"], "weights": {"clip": "/x"}}, "clip"),
        ({"rewards": ["clip"], "weights": {"clip": "/nowhere/x"}}, "/nowhere/x"),
        ({"rewards": []}, "at least one reward"),
    ],
)
def test_bad_arguments_are_named_before_any_work(tmp_path, change, text):
    pieces = make_pieces(tmp_path / "source", 1, 1)
    with pytest.raises((ValueError, FileNotFoundError), match=text):
        call(pieces, tmp_path / "out", **change)
    assert not (tmp_path / "out").exists()


def test_an_error_in_a_reward_is_not_swallowed_and_the_run_resumes(tmp_path):
    pieces, out = make_pieces(tmp_path / "source"), tmp_path / "out"

    class Breaking(Brightness):
        def judge(self, features, captions):
            if "picture 15" in captions:
                raise MemoryError("accelerator")
            return super().judge(features, captions)

    with pytest.raises(
        RewardFailed, match="brightness failed in judge: MemoryError: acc.*key"
    ) as e:
        call(pieces, out, [Breaking("brightness", True)])
    assert isinstance(e.value.__cause__, MemoryError)
    assert (out / "shard-00000.array_record").exists()
    assert not (out / "shard-00001.array_record").exists()
    chosen = [Brightness("brightness", True)]
    call(pieces, out, chosen)
    assert chosen[0].num_read == 16  # the first chunk of the second piece was kept
    call(pieces, tmp_path / "fresh", chosen)
    assert contents(out) == contents(tmp_path / "fresh")


def test_shapes_are_annotated_from_a_config(tmp_path):
    config = get_config("tiny")
    with config.unlocked():
        config.source.shapes.num_images, config.source.shapes.images_per_shard = 24, 16
    manifest = annotate.run(config, tmp_path)
    assert manifest.num_records == 24 and len(manifest.shards) == 2
    assert [name.partition("@")[0] for name in manifest.rewards] == list(config.rewards)
    assert manifest.configuration["source"]["kind"] == "shapes"
    assert shards.verify_shards(tmp_path / "records", full=True)
    assert all(r.synthetic_caption for r in read_records(tmp_path / "records").values())
    assert annotate.run(config, tmp_path) == manifest
    with config.unlocked():
        config.rewards = ("beauty",)
    with pytest.raises(ValueError, match="rewards"):
        annotate.run(config, tmp_path)


def test_tar_source_of_a_config_goes_to_the_folder_it_names(tmp_path):
    make_pieces(tmp_path / "source", 2, 5)
    config = get_config("tiny")
    with config.unlocked():
        config.source.spec = f"tar:{tmp_path}/source/*.tar"
        config.data.records = str(tmp_path / "elsewhere")
    assert annotate.run(config, tmp_path / "run").num_records == 10
    assert len(read_records(tmp_path / "elsewhere")) == 10
