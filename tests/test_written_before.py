"""What an earlier revision wrote is read, resumed, sampled, evaluated; see fixtures/README.md."""

import json
import os
import pathlib
import shutil
import tarfile

import numpy as np
import pytest
from PIL import Image
from pyarrow import parquet

from miro_jax import __main__, main, report
from miro_jax.data.records import batches, shards
from miro_jax.data.records.bins import Bins
from miro_jax.data.records.manifest import Manifest
from miro_jax.report.metric_lines import read_metrics
from tests.fixtures import make_written_before as made

ROOT = pathlib.Path(__file__).parent.parent
ARCHIVE = ROOT / "tests" / "fixtures" / "written_before.tar.gz"
RUN = [
    f"--config={ROOT / 'tests' / 'fixtures' / 'base_before.py'}",
    "--workdir=run",
    *(f"--config.{key}={value!r}" for key, value in made.CONFIG.items()),
]
SCORE = ["score", *made.SCORE, "--out=scores.parquet"]


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch, no_flush):
    """The archive unpacked in the working folder: what it holds names relative paths."""
    with tarfile.open(ARCHIVE) as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder):
    """Path inside -> bytes of all files."""
    paths = sorted(path for path in pathlib.Path(folder).rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in paths}


def own_scores(records):
    """[N, R] of the captions of a set, and the names of the rewards."""
    return shards.read_scores(records)[:, 0], Manifest.load(records).rewards


def test_a_set_is_read():
    paths = shards.verify_shards("run/records", full=True)
    manifest, bins = Manifest.load("run/records"), Bins.load("run/records")
    assert len(paths) == 3 and manifest.num_records == 36
    assert bins.manifest_digest == manifest.digest and bins.names == manifest.rewards
    scores, _ = own_scores("run/records")
    iterator = batches.make_iterator(
        "run/records",
        bins,
        manifest.rewards,
        batches.Options(batch_size=12, seed=0, synthetic_caption_prob=0.0, max_tokens=16),
    )
    batch = next(iterator)
    assert batch["weight"].all() and batch["image_mean"].shape == (12, 16, 16, 3)
    for index, levels in zip(batch["index"], batch["levels"], strict=True):
        edges = [np.sum(bins.edges[r] <= score) for r, score in enumerate(scores[index])]
        np.testing.assert_allclose(levels, np.array(edges) / (bins.num_bins - 1), rtol=1e-6)
    iterator.close()


def test_levels_of_a_set_are_fitted_anew():
    before, manifest = shards.read_scores("run/records"), Manifest.load("run/records")
    kept = {name: data for name, data in contents("run/records").items() if "shard-" in name}
    assert main.main([*RUN, "--stage=annotate", "--config.annotate.num_bins=8"]) == 0
    bins = Bins.load("run/records")
    assert bins.num_bins == 8 and bins.manifest_digest == Manifest.load("run/records").digest
    assert Manifest.load("run/records").shards == manifest.shards
    np.testing.assert_array_equal(shards.read_scores("run/records"), before)
    found = contents("run/records")
    assert {name: found[name] for name in kept} == kept
    assert "<html" in found["report.html"].decode()


def test_a_complete_set_is_left_as_it_is():
    before = contents("run/records")
    assert main.main([*RUN, "--stage=annotate"]) == 0
    found = contents("run/records")
    assert {n: d for n, d in found.items() if n != "report.html"} == {
        n: d for n, d in before.items() if n != "report.html"
    }


@pytest.mark.slow
def test_training_resumes_where_it_stopped():
    """With the losses that the earlier revision reached; programs compiled differently round."""
    shutil.copy("run/metrics.jsonl", "metrics-before.jsonl")
    arguments = [f"--config.train.num_steps={made.SIX}", "--config.train.report=False"]
    assert main.main([*RUN, *arguments]) == 0
    before = pathlib.Path("metrics-before.jsonl").read_text()
    assert pathlib.Path("run/metrics.jsonl").read_text().startswith(before)
    assert pathlib.Path("run/checkpoints/6").is_dir()

    def losses(lines):
        return {line["step"]: line["loss"] for line in lines if "loss" in line}

    found = losses(read_metrics("run"))
    expected = losses(map(json.loads, pathlib.Path("resumed.jsonl").read_text().splitlines()))
    assert list(found) == list(expected) == [1, 2, 3, 4, 5, 6]
    np.testing.assert_allclose([*found.values()], [*expected.values()], rtol=1e-4)


@pytest.mark.slow
def test_a_run_gives_the_same_images():
    os.rename("run/images", "images-before")
    assert main.main([*RUN, "--stage=sample"]) == 0
    names = sorted(path.name for path in pathlib.Path("images-before").glob("0*.png"))
    assert len(names) == 4
    for name in names:
        ours, theirs = (
            np.asarray(Image.open(f"{folder}/{name}"), np.int16)
            for folder in ("run/images", "images-before")
        )
        assert np.abs(ours - theirs).max() <= 1  # of 255; programs compiled differently round
    prompts = ["--prompt=a red circle", "--target=beauty=1", "--images=2", "--steps=2"]
    assert __main__.main(["sample", "--checkpoint=run", *prompts, "--out=out"]) == 0
    assert len(list(pathlib.Path("out").glob("0*.png"))) == 2


def check_page():
    page = pathlib.Path("run/report.html").read_text()
    assert "<html" in page and "data:image/png" in page
    for name in ("count", "beauty", "loss"):
        assert name in page


def test_the_page_of_a_run_is_rendered():
    os.unlink("run/report.html")
    report.write(pathlib.Path("run"))
    check_page()


@pytest.mark.slow
def test_a_run_is_evaluated():
    (before,) = json.loads(pathlib.Path("run/evaluation.json").read_text())
    assert main.main([*RUN, "--stage=evaluate"]) == 0
    *_, found = json.loads(pathlib.Path("run/evaluation.json").read_text())
    for name in ("step", "rewards", "num_parameters", "training"):
        assert found[name] == before[name]
    assert found["results"].keys() == before["results"].keys()
    check_page()


def test_a_score_table_is_complete_for_its_command_and_refused_for_another(capsys):
    before = {n: d for n, d in contents(".").items() if n.startswith("scores.parquet")}
    assert len(before) == 4
    assert __main__.main([*SCORE, "--limit=30"]) == 0
    for other in (["--limit=20"], ["--limit=30", "--stored"], ["--limit=30", "--rewards=count"]):
        capsys.readouterr()
        assert __main__.main([*SCORE, *other]) in (1, 2)
        err = capsys.readouterr().err
        assert "error: " in err and "scores.parquet" in err and "Traceback" not in err
    after = {n: d for n, d in contents(".").items() if n.startswith("scores.parquet")}
    assert after == before


def test_a_stopped_annotation_is_resumed_or_refused_in_one_line(capsys):
    before = contents("stopped/records")
    status = __main__.main(["annotate", *made.ANNOTATE])
    if status:
        err = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
        assert status in (1, 2) and len(err) == 1 and "stopped/records" in err[0]
        assert contents("stopped/records") == before
    shutil.rmtree("stopped/records") if status else None
    assert __main__.main(["annotate", *made.ANNOTATE]) == 0
    scores, names = own_scores("stopped/records")
    expected, known = own_scores("run/records")
    columns = [known.index(name) for name in names]
    np.testing.assert_allclose(scores, expected[:, columns], rtol=1e-5, atol=1e-6)


def test_a_stopped_score_is_resumed_or_refused_in_one_line(capsys):
    arguments = ["score", *made.SCORE, "--out=stopped/scores.parquet", "--batch-size=5"]
    before = contents("stopped")
    status = __main__.main(arguments)
    if status:
        err = [line for line in capsys.readouterr().err.splitlines() if "error: " in line]
        assert status in (1, 2) and len(err) == 1 and "stopped/scores.parquet" in err[0]
        assert contents("stopped") == before
        shutil.rmtree("stopped/scores.parquet.parts")
        assert __main__.main(arguments) == 0
    found = parquet.read_table("stopped/scores.parquet").to_pydict()
    expected = parquet.read_table("scores.parquet").to_pydict()
    assert len(found["key"]) == 36 and found["key"][:30] == expected["key"]
    for name in ("beauty@shapes1", "colors@shapes1"):
        np.testing.assert_allclose(found[name][:30], expected[name], rtol=1e-5, atol=1e-6)
