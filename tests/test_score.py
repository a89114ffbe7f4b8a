"""The score stage: tables of rewards, failures, summaries."""

import json
import math
import threading
import xml.etree.ElementTree as ET

import numpy as np
import pytest

from miro_jax.annotate import models
from miro_jax.models import sharding
from miro_jax.rewards import load_reward
from tests.scoring import (
    Brightness,
    file_bytes,
    grey,
    make_folder,
    make_shapes,
    picture,
    read_failures,
    read_rows,
    score,
    write_csv,
)

BESIDE = (".summary.json", ".histograms.svg", ".failures.jsonl")


pytestmark = pytest.mark.usefixtures("no_flush")


def test_a_row_holds_key_caption_size_and_the_raw_score_of_each_identity(tmp_path):
    out = tmp_path / "scores.parquet"
    score(make_folder(tmp_path / "in", 3), out)
    assert read_rows(out)[2] == {
        "key": "002.png",
        "caption": "picture 2",
        "width": 24,
        "height": 20,
        "brightness@test1": 2.0,
        "length@test1": 11.0,
    }
    assert {p.name for p in tmp_path.iterdir()} == {"in", out.name, *(out.name + e for e in BESIDE)}


def test_all_kinds_of_output_hold_the_same_float32(tmp_path):
    folder = tmp_path / "in"
    make_folder(folder, 2)
    rng = np.random.default_rng(1)
    noise = rng.integers(0, 256, (17, 19, 3), dtype=np.uint8)
    (folder / "noise.png").write_bytes(file_bytes(noise))
    (folder / "noise.txt").write_text('a "quoted",\nand broken caption; caf\u00e9')
    columns = {}
    for ending in ("parquet", "csv", "jsonl"):
        out = tmp_path / f"out.{ending}"
        score(folder, out)
        rows = read_rows(out)
        assert rows[2]["caption"] == 'a "quoted",\nand broken caption; caf\u00e9'
        columns[ending] = np.array([row["brightness@test1"] for row in rows], np.float32)
    expected = np.float32(noise.mean(axis=(0, 1), dtype=np.float64).astype(np.float32).mean())
    assert columns["csv"][2] == expected
    np.testing.assert_array_equal(columns["parquet"], columns["csv"])
    np.testing.assert_array_equal(columns["parquet"], columns["jsonl"])


def test_scores_are_those_of_the_reward_and_stored_those_of_records(tmp_path):
    captions = make_shapes(tmp_path / "in", 9)
    names = ["colors", "beauty"]
    score(tmp_path / "in", tmp_path / "a.csv", names, captions=captions)
    brightness = Brightness()
    score(tmp_path / "in", tmp_path / "b.csv", [brightness], stored=True)
    score(tmp_path / "in", tmp_path / "c.csv", [brightness])
    rows = read_rows(tmp_path / "a.csv")
    images = [picture(tmp_path / "in" / row["key"]) for row in rows]
    for name in names:
        reward = load_reward(name)
        expected = reward.score(np.stack(images), [row["caption"] for row in rows])
        found = np.array([row[reward.identity] for row in rows], np.float32)
        np.testing.assert_array_equal(found, expected)
    stored, raw = (
        np.array([row["brightness@test1"] for row in read_rows(tmp_path / name)], np.float32)
        for name in ("b.csv", "c.csv")
    )
    np.testing.assert_array_equal(stored, raw / np.float32(255))
    scales = [
        json.loads((tmp_path / f"{name}.summary.json").read_text())["scale"]
        for name in ("b.csv", "c.csv")
    ]
    assert scales == ["the scale of records", "the model's own scale"]


def test_a_picture_that_fails_changes_no_other_score_and_no_batch(tmp_path):
    captions = make_shapes(tmp_path / "in", 12)
    names = ["colors", "sharpness"]
    score(tmp_path / "in", tmp_path / "a.csv", names, captions=captions)
    for name in ("000.png", "005.png", "006.png", "007.png", "008.png"):
        (tmp_path / "in" / name).write_bytes(b"")
    score(tmp_path / "in", tmp_path / "b.csv", names, captions=captions)
    before = {row["key"]: row for row in read_rows(tmp_path / "a.csv")}
    after = read_rows(tmp_path / "b.csv")
    assert [row["key"] for row in after] == [f"{i:03d}.png" for i in (1, 2, 3, 4, 9, 10, 11)]
    assert all(row == before[row["key"]] for row in after)
    assert set(read_failures(tmp_path / "b.csv").values()) == {"empty file"}
    shapes = []

    class Watched(Brightness):
        def encode(self, prepared):
            shapes.append(prepared.shape)
            return super().encode(prepared)

    score(tmp_path / "in", tmp_path / "c.csv", [Watched()])
    assert shapes == [(4, 3)] * 3  # what a network would compile for


def test_pictures_of_differing_sizes_are_scored_by_rewards_that_take_them_as_they_are(tmp_path):
    folder = make_folder(tmp_path / "in", 0)
    for i, size in enumerate((32, 40, 32, 64)):
        pictures = make_shapes(tmp_path / f"of{i}", 1, size).parent / f"of{i}" / "000.png"
        (folder / f"{i}.png").write_bytes(pictures.read_bytes())
    (folder / "1b.png").write_bytes(b"not a picture")
    score(folder, tmp_path / "a.csv", ["sharpness"], batch_size=8)
    rows = read_rows(tmp_path / "a.csv")
    assert [row["key"] for row in rows] == ["0.png", "1.png", "2.png", "3.png"]
    for row in rows:
        image = picture(folder / row["key"])
        (expected,) = load_reward("sharpness").score(image[None], [""])
        assert np.float32(row["sharpness@shapes1"]) == expected


def test_a_tower_that_rewards_share_encodes_once(tmp_path):
    first, second = Brightness(), Brightness("length", True)
    score(make_folder(tmp_path / "in", 6), tmp_path / "a.csv", [first, second])
    assert (first.num_encoded, second.num_encoded) == (6, 0)


def test_pictures_are_prepared_in_threads_ahead_of_the_device(tmp_path):
    seen = {}

    class Watched(Brightness):
        def prepare(self, image):
            seen[int(image[0, 0, 0])] = threading.current_thread()
            return super().prepare(image)

        def encode(self, prepared):
            if 0 in prepared:  # the first batch: two more batches are on their way
                seen["ahead"] = True
            return super().encode(prepared)

    score(make_folder(tmp_path / "in", 20), tmp_path / "a.csv", [Watched()])
    assert seen.pop("ahead") and threading.main_thread() not in seen.values()


def test_scores_that_are_not_finite_are_failures_unless_they_may_be_missing(tmp_path):
    class Odd(Brightness):
        def judge(self, features, captions):
            return np.where(features == 2, np.nan, features).astype(np.float32)

    facts = score(make_folder(tmp_path / "in", 4), tmp_path / "a.csv", [Odd()])
    assert read_failures(tmp_path / "a.csv") == {"002.png": "score not finite"}
    assert facts["num_failures"] == 1
    missing = Odd("missing")
    missing.may_be_missing = True
    for ending, value in (("csv", ""), ("jsonl", None)):
        out = tmp_path / f"b.{ending}"
        facts = score(tmp_path / "in", out, [missing])
        assert read_rows(out)[2]["missing@test1"] == value
        assert facts["rewards"]["missing@test1"]["missing"] == 1


def test_summary_is_exact(tmp_path):
    folder = make_folder(tmp_path / "in", 0)
    shades = np.random.default_rng(0).integers(0, 256, 37)
    for i, shade in enumerate(shades):
        (folder / f"{i:03d}.png").write_bytes(file_bytes(grey(shade)))
    (folder / "bad.png").write_bytes(b"bad")
    facts = score(folder, tmp_path / "a.parquet", [Brightness()])
    assert (facts["num_images"], facts["num_scored"], facts["num_failures"]) == (38, 37, 1)
    assert facts["failures"] == {"not an image": 1}
    found = facts["rewards"]["brightness@test1"]
    assert found["count"] == 37 and found["tower"] == "mean"
    assert (found["min"], found["max"]) == (shades.min(), shades.max())
    assert math.isclose(found["mean"], shades.mean(), rel_tol=1e-6)
    assert math.isclose(found["std"], shades.std(), rel_tol=1e-6)
    for percent in (1, 5, 25, 50, 75, 95, 99):
        expected = np.percentile(shades, percent)
        assert math.isclose(found["percentiles"][str(percent)], expected, rel_tol=1e-6)
    assert sum(found["histogram"]["counts"]) == 37
    assert facts["images_per_second"] > 0 and "jax" in facts["versions"]


def test_the_summary_names_the_kernel_of_fused_attention(tmp_path, monkeypatch):
    folder = make_folder(tmp_path / "in", 3)
    assert "attention" not in score(folder, tmp_path / "a.csv")["command"]
    monkeypatch.setattr(models.Toolbox, "make_mesh", lambda *_: sharding.one_device_mesh())
    monkeypatch.setattr(models, "resolve", lambda name, dtype: f"{name} of {dtype}")
    facts = score(folder, tmp_path / "b.csv", dtype="bfloat16")
    assert facts["command"]["attention"] == "auto of bfloat16"


def test_histograms_have_a_labelled_panel_for_each_reward(tmp_path):
    score(make_folder(tmp_path / "in", 5), tmp_path / "a.csv")
    tree = ET.fromstring((tmp_path / "a.csv.histograms.svg").read_text("utf-8"))
    texts = [e.text for e in tree.iter() if e.tag.endswith("}text")]
    for identity in ("brightness@test1", "length@test1"):
        assert f"{identity}, the model's own scale" in texts
    assert any("median 2" in text for text in texts)


def test_an_input_that_changes_while_it_is_scored_is_noticed(tmp_path):
    folder = make_folder(tmp_path / "in", 6)

    class Meddling(Brightness):
        def encode(self, prepared):
            (folder / "005.png").write_bytes(file_bytes(grey(1, 30, 30)))
            return super().encode(prepared)

    with pytest.raises(OSError, match="files-00000 changed while it was read"):
        score(folder, tmp_path / "a.csv", [Meddling()])
    assert not (tmp_path / "a.csv").exists()


def test_an_image_that_comes_while_others_are_scored_is_not_part_of_the_table(tmp_path):
    folder = make_folder(tmp_path / "in", 6)

    class Growing(Brightness):
        def encode(self, prepared):
            (folder / "zzz.png").write_bytes(file_bytes(grey(1)))
            return super().encode(prepared)

    assert score(folder, tmp_path / "a.csv", [Growing()])["num_images"] == 6


def test_limit_scores_the_first_pictures(tmp_path):
    facts = score(make_folder(tmp_path / "in", 18), tmp_path / "a.csv", limit=7)
    assert facts["num_images"] == 7 and len(read_rows(tmp_path / "a.csv")) == 7


def test_too_many_failures_stop_the_run_and_none_left_ends_it(tmp_path):
    folder = make_folder(tmp_path / "in", 4)
    for name in ("001.png", "002.png"):
        (folder / name).write_bytes(b"")
    with pytest.raises(RuntimeError, match=r"At most 40.00%.*2 of 4.*empty file \(2\)"):
        score(folder, tmp_path / "a.csv", max_failure_rate=0.4)
    assert not (tmp_path / "a.csv").exists()
    chosen = [Brightness(), Brightness("length", True)]
    score(folder, tmp_path / "a.csv", chosen, max_failure_rate=0.5)
    assert chosen[0].num_encoded == 0  # what was done was kept
    for path in folder.glob("*.png"):
        path.write_bytes(b"")
    with pytest.raises(RuntimeError, match=r"none of 4 did: empty file \(4\)"):
        score(folder, tmp_path / "b.csv")
    assert len(read_failures(tmp_path / "b.csv")) == 4
    assert not (tmp_path / "b.csv.parts").exists()


FORMULAS = ["=cmd|' /C calc'!A0", "+1", "-2", "@SUM(1)", "\tx", "\rx", "a\rb\r\nc"]


def test_a_text_that_a_spreadsheet_would_run_is_quoted_in_csv_unless_it_is_to_be_raw(tmp_path):
    folder = make_folder(tmp_path / "in", len(FORMULAS) + 1)
    names = [f"{i:03d}.png" for i in range(len(FORMULAS) + 1)]
    (folder / names[0]).rename(folder / "-0.png")
    names[0] = "-0.png"
    texts = [*FORMULAS, "plain = text"]
    table = write_csv(tmp_path / "c.csv", [("path", "caption"), *zip(names, texts, strict=True)])
    negative = [Brightness(), Negative()]
    score(folder, tmp_path / "a.csv", negative, captions=table)
    score(folder, tmp_path / "raw.csv", negative, captions=table, raw_csv=True)
    score(folder, tmp_path / "a.jsonl", negative, captions=table)
    raw, rows = read_rows(tmp_path / "raw.csv"), read_rows(tmp_path / "a.csv")
    kept = [row["caption"] for row in read_rows(tmp_path / "a.jsonl")]
    assert [row["caption"] for row in raw] == kept
    assert [row["caption"] for row in rows] == [
        f"'{text}" if text[0] in "=+-@\t\r" else text for text in kept
    ]
    assert any(text[0] in "=+-@" for text in kept) and raw[0]["key"] == "-0.png"
    assert rows[0]["key"] == "'-0.png"
    assert rows[1]["negative@test1"] == raw[1]["negative@test1"] == "-1.0"  # a number is none
    with pytest.raises(ValueError, match="raw_csv is true there, false here"):
        score(folder, tmp_path / "raw.csv", negative, captions=table)


class Negative(Brightness):
    """A score below 0."""

    def __init__(self):
        super().__init__("negative")

    def judge(self, features, captions):
        return -super().judge(features, captions)
