"""What a run will take, told before it starts."""

import dataclasses
import os
import pathlib
import re
import subprocess
import sys

import pytest

from configs.base import get_config
from miro_jax import annotate
from miro_jax.annotate import estimate
from miro_jax.annotate.models import find_card
from miro_jax.annotate.plan import plan
from miro_jax.data.shapes import world
from miro_jax.pretrained.card import Work
from tests.annotating import make_pieces, open_paths, sample
from tests.sources import write_tar

ROOT = pathlib.Path(__file__).parent.parent
SEVEN = ("clip", "aesthetic", "image_reward", "pick_score", "hpsv2", "vqa", "sci_score")


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    world.write_shards(folder, 60, 24, 20)
    return f"tar:{folder}/*.tar"


def make_plan(source, out, rewards=SEVEN, **changes):
    arguments = {
        "image_encoder": {"name": "sdxl_vae", "size": 256},
        "caption_encoder": {"name": "flan_t5", "width": 2048, "max_tokens": 256},
        "dtype": "bfloat16",
        "plan": True,
    }
    arguments |= {"source": source, "out": out, "rewards": rewards, "pieces": "all"}
    return plan(annotate.Settings(**arguments | changes))


def describe(source, out, rewards=SEVEN, devices=1, device_memory=None, **changes):
    """What `--plan` prints."""
    job = make_plan(source, out, rewards, devices=devices, device_memory=device_memory, **changes)
    return estimate.describe(job)


@pytest.mark.over_a_second
def test_nothing_is_touched_and_no_device_is_asked(source, tmp_path):
    """Where jax has no platform to start, as in the test of the layout."""
    done = subprocess.run(
        [
            *(sys.executable, "-m", "miro_jax.annotate", "--plan", f"--source={source}"),
            *(f"--out={tmp_path}/out", f"--rewards={','.join(SEVEN)}", "--dtype=bfloat16"),
            *("--image-encoder=sdxl_vae:size=256", "--caption-encoder=flan_t5:width=2048"),
            *("--pieces=0-1", "--devices=4", "--device-memory=16", "--one-by-one", "--mesh=allx4"),
        ],
        env=os.environ | {"JAX_PLATFORMS": "none"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    text = done.stdout
    for fact in (
        "pieces: 3, of which this worker does 2",
        "about 60; 100.0% are usable",
        "memory of each of 4 devices (1 x 4), batches of 64:",
        "vqa: vqa                        11,447.0 M parameters, as published: 5.65 GiB, at work",
        "requested: one\n  fits into 16 GiB",
        "hours on these devices are not known",
    ):
        assert fact in text, fact
    assert list(tmp_path.iterdir()) == []


def test_what_does_not_fit_is_said_with_what_would_help(source, tmp_path):
    text = describe(source, tmp_path, device_memory=40.0)
    assert "DOES NOT FIT into 40 GiB; --one-by-one would help" in text
    text = describe(source, tmp_path, device_memory=16.0, one_by_one=True)
    assert "DOES NOT FIT into 16 GiB; more devices or a smaller batch would help" in text
    one = {"dtype": "float32", "one_by_one": True}
    text = describe(source, tmp_path, devices=8, device_memory=16.0, **one)
    remedy = "--dtype=bfloat16, --mesh=allx8, more devices or a smaller batch would help"
    assert f"DOES NOT FIT into 16 GiB; {remedy}" in text
    text = describe(source, tmp_path, devices=8, device_memory=80.0)
    assert "fits into 80 GiB" in text and "DOES NOT" not in text


def resident(text, name):
    """GiB of parameters on a device, and of work."""
    found = re.search(rf": {name} .*: ([\d.]+) GiB, at work ([\d.]+) GiB", text)
    return float(found[1]), float(found[2])


def test_devices_share_parameters_as_the_mesh_lays_them_out(source, tmp_path):
    def told(mesh, devices):
        return describe(source, tmp_path, mesh=mesh, devices=devices)

    one, eight, pairs, alone = told("all", 1), told("all", 8), told("allx2", 8), told("1x1", 8)
    assert "of 8 devices (4 x 2)" in pairs and "of one device (1 x 1)" in alone
    assert resident(alone, "vqa") == resident(one, "vqa")
    assert resident(eight, "vqa")[0] == pytest.approx(resident(one, "vqa")[0] / 8, abs=0.01)
    assert resident(pairs, "vqa")[0] == pytest.approx(resident(eight, "vqa")[0], rel=0.03)
    assert resident(eight, "vqa")[1] > resident(pairs, "vqa")[1]  # parameters that are gathered
    assert resident(eight, "sdxl_vae")[0] == resident(one, "sdxl_vae")[0]  # no axis cuts these
    with pytest.raises(ValueError, match="must divide the 4 devices; got 3"):
        told("allx3", 4)


@pytest.mark.parametrize(
    "given, said",
    [
        ({"mesh": 4}, "mesh must be all, DATAxMODEL or allxMODEL, such as 4x2; got 4"),
        ({"stages": 3}, "stages must be all or some of rewards, vqa, encode, as text .*; got 3"),
        ({"stages": ["encode"]}, r"stages must be all .* with commas between; got \['encode'\]"),
        ({"groups": 3}, r"groups must be pairs, as \[\('rewards', .*; got 3"),
        ({"groups": {"rewards": ["clip"]}}, "groups must be pairs"),
        ({"groups": [("rewards", "clip")]}, "groups must be pairs"),
        ({"out": 3}, "A folder must be text or a path; got 3"),
    ],
)
def test_an_option_of_another_kind_is_named_with_what_it_takes(source, tmp_path, given, said):
    with pytest.raises((TypeError, ValueError), match=said):
        make_plan(source, **({"out": tmp_path} | given))


def test_only_the_stages_that_run_are_planned(source, tmp_path):
    text = describe(source, tmp_path, stages="encode")
    assert "flan_t5" in text and "vqa" not in text


def test_a_caption_costs_what_its_padded_length_does():
    """The numbers on the right were counted in the programs."""
    flan = find_card("flan_t5").text
    assert [flan.gflop(words) for words in (20, 60)] == pytest.approx([74.3, 299.6], rel=0.02)
    clip = find_card("clip").text
    assert [clip.gflop(words) for words in (20, 60)] == pytest.approx([19.4, 78.9], rel=0.02)
    vqa = find_card("vqa@clip-flant5-xxl").text
    assert [vqa.gflop(words) for words in (20, 60)] == pytest.approx([7542, 8273], rel=0.01)
    given = Work(64, 1, 1, ((20, 1.0), (60, 0.5)))
    size = find_card("flan_t5").size(given, None, None)
    assert size.gflop == pytest.approx(flan.gflop(20) + flan.gflop(60) / 2)


def test_weights_that_two_rewards_share_count_once(source, tmp_path):
    rewards = ("aesthetic", "openai_clip")
    text = describe(source, tmp_path, rewards)
    assert resident(text, "aesthetic")[0] == 0 and resident(text, "openai_clip")[0] > 0.7
    places = {"openai_clip": "another/clip"}
    text = describe(source, tmp_path, rewards, weights=places)
    assert resident(text, "aesthetic")[0] > 0.5


def test_missing_weights_of_a_later_group_are_told_before_any_work(source, tmp_path, monkeypatch):
    monkeypatch.setenv("MIRO_JAX_OFFLINE", "1")
    job = make_plan(
        source,
        tmp_path,
        ("beauty", "vqa"),
        image_encoder={"name": "pixels", "size": 24},
        caption_encoder={"name": "words"},
        one_by_one=True,
    )
    with pytest.raises(FileNotFoundError, match="clip-flant5-xxl must be fetched"):
        annotate.execute(job)
    assert not list(tmp_path.rglob("*.part"))


def test_a_disk_that_is_too_small_is_named(source, tmp_path, monkeypatch):
    full = dataclasses.make_dataclass("Usage", ["free"])(1000)
    monkeypatch.setattr("shutil.disk_usage", lambda path: full)
    text = describe(source, tmp_path / "out")
    assert f"free on {tmp_path}: 1.0 kB: DOES NOT FIT" in text


def test_records_are_estimated_from_a_few_pieces(tmp_path):
    paths = make_pieces(tmp_path / "s", num_pieces=8, num_samples=10)
    bad = [m for i in range(10) for m in sample(i, image=b"" if i < 5 else None)]
    write_tar(tmp_path / "s" / "p0.tar", bad)
    pieces = open_paths(paths).pieces
    seen = estimate.look(pieces)
    assert 70 < seen.samples <= 90 and 0.8 < seen.usable < 0.9 and seen.words == 2
    assert 0.3 < seen.synthetic < 0.5
    known = [dataclasses.replace(piece, count=7) for piece in pieces]
    assert estimate.look(known).samples == 56


def test_a_large_piece_is_read_in_part(tmp_path, monkeypatch):
    members = [m for i in range(200) for m in sample(i, image=os.urandom(5000 + 20 * i))]
    pieces = open_paths([write_tar(tmp_path / "a.tar", members)]).pieces
    assert estimate.look(pieces).samples == 200
    monkeypatch.setattr(estimate, "_SAMPLES_READ", 20)
    assert 150 < estimate.look(pieces).samples < 350  # the first pictures are the smaller ones


def test_disk_is_estimated_near_to_what_is_written(source, tmp_path):
    small = {
        "image_encoder": {"name": "pixels", "size": 48},
        "caption_encoder": {"name": "words", "width": 64},
        "dtype": None,
    }
    job = make_plan(source, tmp_path / "out", ["beauty"], **small)
    each = sum(estimate.disk(job.toolbox, estimate.look(job.source.pieces)).values())
    annotate.execute(job)
    names = sorted((tmp_path / "out").glob("*.array_record"))
    from_parts = sum(path.stat().st_size for path in names)
    assert 0.3 * from_parts < 60 * each < 3 * from_parts
    more = make_plan(source, tmp_path / "b", ["beauty"], encode_512=True, **small)
    fields = estimate.disk(more.toolbox, estimate.look(job.source.pieces))
    assert fields["image_mean_512, image_std_512"] == 4 * 512 * 512 * 3
    assert fields["image_mean, image_std"] == 4 * 48 * 48 * 3


def test_the_second_latents_must_be_of_another_size(source, tmp_path):
    make_plan(source, tmp_path, encode_512=True)
    with pytest.raises(ValueError, match="size 512 already: drop encode_512"):
        large = {"name": "sdxl_vae", "size": 512}
        make_plan(source, tmp_path, image_encoder=large, encode_512=True)


def test_a_probe_measures_the_rate_and_leaves_nothing(source, tmp_path):
    text = describe(
        source,
        tmp_path / "out",
        ("beauty", "count"),
        image_encoder={"name": "pixels", "size": 24},
        caption_encoder={"name": "words"},
        batch_size=2,
        plan=False,
        probe=True,
    )
    (rate,) = re.findall(r"rewards, encode: ([\d,.]+) images a second, measured", text)
    assert float(rate.replace(",", "")) > 1
    assert "all pieces by one such worker" in text and "no model has a network" in text
    assert list(tmp_path.iterdir()) == []


def test_a_config_tells_its_plan_too(tmp_path, capsys):
    config = get_config("tiny")
    with config.unlocked():
        config.annotate.before = "plan"
        config.source.shapes.num_images = 24
    assert annotate.run(config, tmp_path) is None
    assert "samples: about 24" in capsys.readouterr().out
    assert not list((tmp_path / "records").glob("*.array_record"))
    with config.unlocked():
        config.annotate.before = "later"
    with pytest.raises(ValueError, match="before must be '', 'plan' or 'probe'; got 'later'"):
        annotate.run(config, tmp_path)


def test_a_source_without_usable_samples_is_said_to_be_one(tmp_path):
    members = [m for i in range(3) for m in sample(i, caption="")] + sample(4, image=b"")
    pieces = write_tar(tmp_path / "a.tar", members)
    small = {"image_encoder": "pixels:size=48", "caption_encoder": "words:width=64"}
    text = describe(f"tar:{pieces}", tmp_path / "out", ["beauty"], **small)
    assert (
        "  75.0% cannot: missing caption, as a.tar/key0000: it has .png\n"
        "  25.0% cannot: missing image, as a.tar/key0004: it has .txt" in text
    )
    assert "NOTHING IS USABLE" in text
