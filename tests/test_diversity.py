"""Vendi, CMMD and distances: known values, exact formulas; and as metrics of a suite's images."""

import dataclasses
import io
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from PIL import Image

from miro_jax.evaluate import diversity
from miro_jax.evaluate.suites import features, run
from miro_jax.evaluate.suites.settings import Settings
from tests.suites import small_suite, write_geneval


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def alike(count, cosine):
    """Unit vectors with one cosine between all pairs."""
    matrix = np.full((count, count), cosine) + (1 - cosine) * np.eye(count)
    return np.linalg.cholesky(matrix)


def test_the_vendi_score_counts_distinct_images():
    assert diversity.vendi(alike(4, 0.0)) == pytest.approx(4)
    assert diversity.vendi(np.tile(unit([[1, 2, 3]]), (5, 1))) == pytest.approx(1)
    known = {0.5: 2.93, 0.7: 2.18, 0.8: 1.80, 0.9: 1.42, 0.95: 1.22}
    for cosine, score in known.items():
        assert diversity.vendi(alike(4, cosine)) == pytest.approx(score, abs=6e-3)
    assert diversity.vendi(alike(4, 0.8)) == pytest.approx(1.799, abs=1e-3)


def test_the_vendi_score_is_the_same_by_images_and_by_width():
    x = unit(np.random.default_rng(0).normal(size=(30, 7)))
    values = np.linalg.eigvalsh(x @ x.T / 30)
    values = values[values > 1e-12]
    assert diversity.vendi(x) == pytest.approx(np.exp(-(values * np.log(values)).sum()), rel=1e-9)


def test_distances_are_those_of_all_pairs():
    x = unit(np.random.default_rng(1).normal(size=(6, 5)))
    pairs = [1 - x[i] @ x[j] for i in range(6) for j in range(i)]
    assert diversity.mean_distance(x) == pytest.approx(np.mean(pairs), abs=1e-12)
    with pytest.raises(ValueError, match="two images; got 1"):
        diversity.mean_distance(x[:1])


def test_cmmd_equals_a_loop_and_nearly_the_distance_of_means(monkeypatch):
    rng = np.random.default_rng(2)
    x, y = unit(rng.normal(size=(50, 16))), unit(rng.normal(0.3, 1, (50, 16)))

    def k(a, b):
        return np.exp(-np.sum((a - b) ** 2) / 200)

    def mean(first, second):
        return np.mean([k(a, b) for a in first for b in second])

    expected = 1000 * (mean(x, x) + mean(y, y) - 2 * mean(x, y))
    assert diversity.cmmd(x, y) == pytest.approx(expected, abs=1e-9)
    monkeypatch.setattr(diversity, "_ROWS", 7)
    assert diversity.cmmd(x, y) == pytest.approx(expected, abs=1e-9)
    assert diversity.cmmd(x, x) == pytest.approx(0, abs=1e-9)
    near = 10 * np.sum((x.mean(axis=0) - y.mean(axis=0)) ** 2)
    assert diversity.cmmd(x, y) == pytest.approx(near, rel=0.02)


def test_features_that_are_not_of_length_one_are_refused():
    with pytest.raises(ValueError, match="length 1; that of image 1 is 2"):
        diversity.vendi(np.array([[1.0, 0], [0, 2.0]]))
    with pytest.raises(ValueError, match="length 1; that of image 0 is nan"):
        diversity.cmmd(np.array([[np.nan, 0]]), np.array([[1.0, 0]]))
    with pytest.raises(ValueError, match="one width; got 2 and 3"):
        diversity.cmmd(np.eye(2), np.eye(3))
    with pytest.raises(ValueError, match="n >= 1"):
        diversity.vendi(np.zeros((0, 4)))


@dataclasses.dataclass
class Colors:
    """A model whose features are mean colours."""

    name: str = "clip-0123456789ab-float32"
    config: SimpleNamespace = dataclasses.field(
        default_factory=lambda: SimpleNamespace(image_size=8)
    )

    def encode(self, images):
        assert images.shape[1:] == (8, 8, 3) and images.dtype == np.uint8
        return unit(images.reshape(len(images), -1, 3).mean(axis=1) + 1).astype(np.float32)


def png(color, size=(9, 20)):
    file = io.BytesIO()
    Image.new("RGB", size, color).save(file, "png")
    return file.getvalue


def test_an_image_is_cut_before_it_is_resized():
    image = np.zeros((4, 9, 3), np.uint8)
    image[:, 2:6] = 200  # the central square begins at (9 - 4) // 2
    assert (features.central_square(image, 8) == 200).all()


def test_metrics_of_a_suite_name_their_model_and_numbers():
    red, green = (255, 0, 0), (0, 255, 0)
    files = [png(red), png(red), png(red), png(green)]
    model = Colors()
    found = features.encode(model, files)
    prompts = ["same", "same", "other", "other"]
    metrics = features.measure(found, prompts, [""] * 4, features.name_of(model), found)
    assert list(metrics) == [
        "vendi@clip-0123456789ab",
        "distance@clip-0123456789ab",
        "vendi_set@clip-0123456789ab-n4",
        "cmmd@clip-0123456789ab-n4-m4",
    ]
    one, two = diversity.vendi(found[:2]), diversity.vendi(found[2:])
    assert one == pytest.approx(1) and two > 1.9
    vendi = metrics["vendi@clip-0123456789ab"]
    assert vendi["value"] == pytest.approx((one + two) / 2) and vendi["low"] < vendi["high"]
    assert (vendi["prompts"], vendi["images"]) == (2, 4)
    assert metrics["cmmd@clip-0123456789ab-n4-m4"]["value"] == pytest.approx(0, abs=1e-9)
    single = features.measure(found[:1], ["same"], [""], "clip-0")
    assert list(single) == ["vendi_set@clip-0-n1"]


def test_features_are_of_exact_products_whatever_the_device_takes_by_default():
    class Precise(Colors):
        def encode(self, images):
            seen.append(jax.config.jax_default_matmul_precision)
            return super().encode(images)

    seen = []
    features.encode(Precise(), [png((9, 9, 9))])
    assert seen == ["highest"] != [jax.config.jax_default_matmul_precision]


def test_a_reference_is_a_folder_or_features_of_the_same_model(tmp_path):
    model = Colors()
    (tmp_path / "images").mkdir()
    for name, color in (("b", (0, 0, 255)), ("a", (255, 0, 0))):
        (tmp_path / "images" / f"{name}.png").write_bytes(png(color)())
    read = features.read_reference(str(tmp_path / "images"), model)
    np.testing.assert_array_equal(
        read, features.encode(model, [png((255, 0, 0)), png((0, 0, 255))])
    )
    features.save(tmp_path, read, features.name_of(model))
    np.testing.assert_array_equal(features.read_reference(str(tmp_path), model), read)
    other = Colors(name="clip-ba9876543210-float32")
    with pytest.raises(ValueError, match="features of clip-ba98.*; it holds those of clip-0123"):
        features.read_reference(str(tmp_path), other)
    with pytest.raises(FileNotFoundError, match="must hold reference images"):
        features.read_reference(str(tmp_path / "nowhere"), model)
    known = features.describe_reference(str(tmp_path / "images"))
    assert known["files"] == 2 and known == features.describe_reference(known["name"])
    (tmp_path / "images" / "a.png").write_bytes(png((0, 255, 0))())
    assert features.describe_reference(str(tmp_path / "images")) != known
    facts = features.describe_model(model, read)
    assert facts["size"] == 8 and len(facts["reference"]) == 12


def test_an_evaluation_reports_diversity_beside_its_score(tmp_path, monkeypatch):
    monkeypatch.setattr(
        features, "open_model", lambda weights: Colors(name=f"clip-{weights[5:]}-f")
    )
    write_geneval(tmp_path / "images", small_suite())
    options = {"what": str(tmp_path / "images"), "suite": "small", "features": "some/tiny"}
    results = [tmp_path / "first", tmp_path / "second"]
    for out in results:
        done = run.run(run.make_job(small_suite(), Settings(**options), out), silent=True)
        options["reference"] = str(results[0])
    names = [name for name in done.metrics if "@clip-tiny" in name]
    count = done.manifest["result"]["images"]
    assert names == [
        *("vendi@clip-tiny", "distance@clip-tiny", f"vendi_set@clip-tiny-n{count}"),
        f"cmmd@clip-tiny-n{count}-m{count}",
    ]
    assert done.metrics[names[-1]]["value"] == pytest.approx(0, abs=1e-9)
    assert done.manifest["images"]["features"]["model"] == "clip-tiny-f"
    assert "vendi@clip-tiny" in (results[1] / "table.txt").read_text()
    features.save(results[0], np.eye(2, dtype=np.float32), "clip-tiny")
    with pytest.raises(ValueError, match="another request: reference_files has other"):
        run.make_job(small_suite(), Settings(**options), results[1])
    alone = Settings(what=options["what"], suite="small", reference="x")
    with pytest.raises(ValueError, match="--reference must come with --features"):
        run.make_job(small_suite(), alone, tmp_path / "third")
