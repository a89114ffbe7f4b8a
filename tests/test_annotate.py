"""The annotate stage: what becomes of every sample, resume after kills, the command line."""

import io
import json
import os
import random
import re
import subprocess
import sys
import tarfile
import time

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordReader
from PIL import Image

from configs.base import get_config
from miro_jax import annotate, bins, records, shards
from miro_jax.encoders import build_caption_encoder, build_image_encoder
from miro_jax.shapes import world

SIZE = 16


class Brightness:
    """Mean of the picture, or of the picture and the caption's length; counts its readings."""

    version = "test1"
    synthetic_form = "long"

    def __init__(self, name="brightness", needs_caption=False, tower="mean", bad=None, form="long"):
        self.name, self.needs_caption, self.tower = name, needs_caption, tower
        self.synthetic_form = form
        self.bad = bad or {}
        self.num_read = 0

    @property
    def identity(self):
        return f"{self.name}@{self.version}"

    def read(self, images):
        assert images.dtype == np.uint8 and images.shape[1:] == (SIZE, SIZE, 3)
        self.num_read += len(images)
        return images.mean(axis=(1, 2, 3)) / 255

    def judge(self, features, captions):
        assert len(features) == len(captions)
        words = [len(text) if self.needs_caption else 0 for text in captions]
        score = np.float32(features) + np.float32(words)
        return np.array(
            [self.bad.get(text, s) for text, s in zip(captions, score, strict=True)], np.float32
        )

    def score(self, images, captions):
        return self.judge(self.read(images), captions)

    def stored(self, score):
        return score / 100


def rewards():
    return [
        Brightness(),
        Brightness("length", True, "other"),
        Brightness("short", True, form="short"),
    ]


def png(shade):
    buffer = io.BytesIO()
    Image.fromarray(np.full((20, 24, 3), shade, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def sample(i, caption=None, image=None, key=None, **meta):
    """Members of a sample; None leaves a part at its default, b"" or "" leaves it out."""
    key = key or f"key{i:04d}"
    image = png(i % 256) if image is None else image
    caption = f"picture {i}" if caption is None else caption
    members = [(f"{key}.png", image)] if image else []
    members += [(f"{key}.txt", caption.encode())] if caption else []
    return members + ([(f"{key}.json", json.dumps(meta).encode())] if meta else [])


def write_tar(path, members):
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return str(path)


def make_pieces(folder, num_pieces=3, num_samples=10):
    """Every second sample has a synthetic caption, every fourth also a short one."""
    folder.mkdir(exist_ok=True)
    paths = []
    for piece in range(num_pieces):
        members = []
        for i in range(piece * num_samples, (piece + 1) * num_samples):
            meta = {"seen": 1}
            meta |= {"synthetic_caption": f"a long text about {i}"} if i % 2 == 0 else {}
            meta |= {"synthetic_caption_short": f"brief {i}"} if i % 4 == 0 else {}
            members += sample(i, **meta)
        paths.append(write_tar(folder / f"p{piece}.tar", members))
    return paths


def call(pieces, out, reward_list=None, **changes):
    arguments = {
        "pieces": pieces,
        "out": out,
        "rewards": reward_list or rewards(),
        "image_encoder": build_image_encoder("pixels", size=SIZE),
        "caption_encoder": build_caption_encoder("words", width=16, max_tokens=8),
        "image_size": SIZE,
        "num_bins": 4,
        "batch_size": 4,
    }
    return annotate.annotate(**(arguments | changes))


def read_records(out):
    """All records of a folder, by key."""
    data = [
        d for path in shards.verify_shards(out) for d in ArrayRecordReader(str(path)).read_all()
    ]
    return {record.key: record for record in map(records.decode_record, data)}


def read_failures(out):
    return [json.loads(line) for line in (out / "failures.jsonl").read_text().splitlines()]


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_every_sample_becomes_the_right_record(tmp_path):
    pieces = make_pieces(tmp_path / "source")
    chosen = rewards()
    manifest = call(pieces, tmp_path / "out", chosen)
    found = read_records(tmp_path / "out")
    assert list(found) == [f"key{i:04d}" for i in range(30)]
    words = build_caption_encoder("words", width=16, max_tokens=8)
    for i, record in enumerate(found.values()):
        text = f"picture {i}"
        assert (record.caption, record.width, record.height) == (text, 24, 20)
        np.testing.assert_array_equal(record.image_mean, np.float16(i / 127.5 - 1))
        np.testing.assert_array_equal(record.caption_tokens, words.encode([text])[0])
        shade, length = i / 255, len(text)
        np.testing.assert_allclose(
            record.scores, np.array([shade, shade + length, shade + length]) / 100, rtol=1e-5
        )
        if i % 2:
            assert record.synthetic_caption is None
            continue
        text = f"a long text about {i}"
        assert record.synthetic_caption == text
        np.testing.assert_array_equal(record.synthetic_caption_tokens, words.encode([text])[0])
        short = len(f"brief {i}") if i % 4 == 0 else len(text)
        want = np.array([shade, shade + len(text), shade + short]) / 100
        np.testing.assert_allclose(record.synthetic_scores, want, rtol=1e-5)
    assert manifest.num_records == manifest.num_samples == 30 and manifest.num_failures == 0
    assert manifest.rewards == ("brightness@test1", "length@test1", "short@test1")
    assert manifest.latent_shape == (SIZE, SIZE, 3) and manifest.caption_width == 16


def test_each_tower_reads_each_picture_once_for_both_captions(tmp_path):
    chosen = rewards()
    call(make_pieces(tmp_path / "source"), tmp_path / "out", chosen)
    assert [reward.num_read for reward in chosen] == [30, 30, 0]  # the third shares the first's


def test_batch_size_and_threads_do_not_change_a_byte(tmp_path):
    pieces = make_pieces(tmp_path / "source")
    call(pieces, tmp_path / "a", batch_size=1, num_threads=1)
    call(pieces, tmp_path / "b", batch_size=7, num_threads=8)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


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
        "manifest.json", "bins.json", "stats.json", "failures.jsonl",
        *(f"shard-0000{i}.array_record{e}" for i in range(3) for e in ("", ".json", ".scores.npy")),
    }  # fmt: skip


def test_every_kind_of_bad_sample_is_listed_with_its_cause(tmp_path):
    members = [
        *sample(0),
        *sample(1, image=b""),
        *sample(2, caption=""),
        *sample(3, caption="  <PERSON> "),
        *sample(4, image=b"<html>"),
        *sample(5, image=png(5)[:60]),
        *sample(6, key="key0000"),
        *sample(7, caption="nan"),
        *sample(8, caption="inf"),
        *sample(9, caption="good", synthetic_caption="nan"),
        *sample(10, caption="a  <PERSON>\tin\nsnow"),
    ]
    odd = Brightness("odd", True, bad={"nan": np.nan, "inf": np.inf})
    out = tmp_path / "out"
    path = write_tar(tmp_path / "a.tar", members)
    manifest = call([path], out, [Brightness(), odd], max_failure_rate=0.9, batch_size=3)
    causes = [(f["key"], f["cause"]) for f in read_failures(out)]
    assert causes == [
        ("key0001", "missing image"),
        ("key0002", "missing caption"),
        ("key0003", "missing caption"),
        ("key0004", "not an image"),
        ("key0005", "damaged image"),
        ("key0000", "duplicate key"),
        ("key0007", "score not finite: odd@test1"),
        ("key0008", "score not finite: odd@test1"),
        ("key0009", "score not finite: odd@test1"),
    ]
    assert {f["piece"] for f in read_failures(out)} == {"a.tar"}
    assert (manifest.num_samples, manifest.num_failures) == (11, 9)
    found = read_records(out)
    assert {key: record.caption for key, record in found.items()} == {
        "key0000": "picture 0",
        "key0010": "a in snow",
    }


def test_nan_is_missing_only_where_the_reward_says_so(tmp_path):
    odd = Brightness("odd", True, bad={"nan": np.nan, "inf": np.inf})
    odd.may_be_missing = True
    path = write_tar(
        tmp_path / "a.tar", [*sample(0), *sample(1, caption="nan"), *sample(2, caption="inf")]
    )
    call([path], tmp_path / "out", [Brightness(), odd], max_failure_rate=0.5)
    found = read_records(tmp_path / "out")
    assert list(found) == ["key0000", "key0001"]
    assert np.isnan(found["key0001"].scores).tolist() == [False, True]


def test_numbers_of_an_encoder_that_are_not_finite_are_failures(tmp_path):
    class Overflowing:
        identity, latent_shape = "overflowing@1", (1, 1, 1)

        def encode(self, images):
            mean = images.mean(axis=(1, 2, 3)).astype(np.float16)[:, None, None, None]
            return np.where(mean == 3, np.float16(np.inf), mean), mean

    out = tmp_path / "out"
    call(make_pieces(tmp_path / "s"), out, image_encoder=Overflowing(), max_failure_rate=0.5)
    assert [(f["key"], f["cause"]) for f in read_failures(out)] == [
        ("key0003", "image_mean not finite")
    ]


@pytest.mark.parametrize("kind", ["header", "boundary", "payload"])
def test_readable_part_of_a_damaged_tar_is_annotated(tmp_path, kind):
    pieces = make_pieces(tmp_path / "source")
    with tarfile.open(pieces[1]) as archive:
        offset = archive.getmember("key0016.png").offset
    content = bytearray(open(pieces[1], "rb").read())
    if kind == "header":
        content[offset + 3] ^= 1
    else:
        del content[offset + (0 if kind == "boundary" else 530) :]
    open(pieces[1], "wb").write(content)
    out = tmp_path / "out"
    manifest = call(pieces, out, max_failure_rate=0.1)
    assert list(read_records(out)) == [f"key{i:04d}" for i in [*range(16), *range(20, 30)]]
    (failure,) = read_failures(out)
    assert failure["cause"] == "damaged tar"
    assert "p1.tar" in failure["detail"] and f"byte {offset}" in failure["detail"]
    assert manifest.num_failures == 1


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
        "key0000 in a.tar",
    ):
        assert text in str(caught.value)
    assert not (out / "manifest.json").exists()
    chosen = rewards()
    assert call([path], out, chosen, max_failure_rate=0.5).num_records == 5
    assert chosen[0].num_read == 0


def test_a_set_without_any_record_is_refused(tmp_path):
    path = write_tar(tmp_path / "a.tar", sample(0, caption=""))
    with pytest.raises(RuntimeError, match="missing caption"):
        call([path], tmp_path / "out", max_failure_rate=1.0)


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
        ({"image_size": 8, "image_encoder": build_image_encoder("pixels", size=8)}, "image_size"),
        ({"source": {"kind": "shapes", "seed": 1}}, "source"),
        ({"pieces": 2}, "pieces"),
    ],
)
def test_set_of_another_configuration_is_refused(tmp_path, change, field, complete):
    pieces, out = make_pieces(tmp_path / "source"), tmp_path / "out"
    call(pieces, out)
    if not complete:
        configuration = shards.Manifest.load(out).configuration
        (out / "manifest.json").unlink()
        (out / "manifest.partial.json").write_text(json.dumps(configuration))
    before = contents(out)
    change = dict(change, pieces=pieces[: change.get("pieces", 3)])
    with pytest.raises(ValueError, match=f"differs in.*{field}.*Delete") as caught:
        call(out=out, **change)
    assert str(out) in str(caught.value)
    assert contents(out) == before


def test_changed_source_file_is_refused(tmp_path):
    pieces, out = make_pieces(tmp_path / "source"), tmp_path / "out"
    call(pieces, out)
    size = os.path.getsize(pieces[2])
    write_tar(pieces[2], [m for i in range(20, 30) for m in sample(i, caption="other", seen=1)])
    assert os.path.getsize(pieces[2]) == size
    with pytest.raises(ValueError, match="pieces"):
        call(pieces, out)


def test_source_may_be_moved(tmp_path):
    pieces, out = make_pieces(tmp_path / "source"), tmp_path / "out"
    first = call(pieces, out)
    (tmp_path / "source").rename(tmp_path / "elsewhere")
    moved = [str(tmp_path / "elsewhere" / os.path.basename(path)) for path in pieces]
    assert call(moved, out) == first


def test_shards_of_unknown_origin_are_refused(tmp_path):
    pieces, out = make_pieces(tmp_path / "source"), tmp_path / "out"
    call(pieces, out)
    (out / "manifest.json").unlink()
    with pytest.raises(ValueError, match="manifest.partial.json"):
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
        ({"pieces": []}, "At least one piece"),
        ({"pieces": ["/nowhere/a.tar"]}, "/nowhere/a.tar"),
    ],
)
def test_bad_arguments_are_named_before_any_work(tmp_path, change, text):
    pieces = make_pieces(tmp_path / "source", 1, 1)
    with pytest.raises((ValueError, FileNotFoundError), match=text):
        call(**({"pieces": pieces, "out": tmp_path / "out"} | change))


def test_an_error_in_a_reward_is_not_swallowed_and_the_run_resumes(tmp_path):
    pieces, out = make_pieces(tmp_path / "source"), tmp_path / "out"

    class Breaking(Brightness):
        def judge(self, features, captions):
            if "picture 15" in captions:
                raise MemoryError("accelerator")
            return super().judge(features, captions)

    with pytest.raises(MemoryError):
        call(pieces, out, [Breaking("brightness", True)])
    assert (out / "shard-00000.array_record").exists()
    assert not (out / "shard-00001.array_record").exists()
    chosen = [Brightness("brightness", True)]
    call(pieces, out, chosen)
    assert chosen[0].num_read == 20
    call(pieces, tmp_path / "fresh", chosen)
    assert contents(out) == contents(tmp_path / "fresh")


# Imports once, then forks: each child annotates and is killed after the delay it was given.
KILLED = """
import importlib.util, os, signal, sys, time
spec = importlib.util.spec_from_file_location("helpers", {this!r})
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)
pieces, out = sys.argv[1].split(","), sys.argv[2]
for delay in sys.argv[3:]:
    child = os.fork()
    if not child:
        helpers.call(pieces, out, max_failure_rate=0.5)
        os._exit(0)
    time.sleep(float(delay))
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    print("finished" if os.WIFEXITED(status) else "killed", flush=True)
"""


def run_killed(pieces, out, delays):
    code = KILLED.format(this=__file__)
    command = [sys.executable, "-c", code, ",".join(pieces), str(out), *map(str, delays)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout.split()


def test_killed_at_random_moments_the_folder_ends_byte_identical(tmp_path):
    pieces = make_pieces(tmp_path / "source", num_pieces=12, num_samples=40)
    start = time.perf_counter()
    call(pieces, tmp_path / "whole", max_failure_rate=0.5)
    seconds = time.perf_counter() - start
    rng = random.Random(0)
    delays = [rng.uniform(0.03, 0.5) * seconds for _ in range(6)]
    ends = run_killed(pieces, tmp_path / "out", delays)
    assert ends.count("killed") >= 3
    call(pieces, tmp_path / "out", max_failure_rate=0.5)
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")


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


def command(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "miro_jax.annotate", *arguments],
        capture_output=True,
        text=True,
        timeout=60,
    )


def test_command_line_annotates_and_says_what_it_did(tmp_path):
    world.write_shards(tmp_path / "source", 12, SIZE, 6)
    done = command(
        f"--source=tar:{tmp_path}/source/*.tar", f"--out={tmp_path}/out", f"--image-size={SIZE}",
        "--rewards=beauty,colors", "--caption-encoder=words:width=16,max_tokens=8",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("12 records, 0 failures")
    assert "annotate" in done.stderr  # progress
    assert shards.Manifest.load(tmp_path / "out").caption_width == 16


def run_main(arguments, capsys):
    """Run in this process; return exit status, stdout and stderr."""
    try:
        status = annotate.main(arguments)
    except SystemExit as error:
        status = error.code
    return status, *capsys.readouterr()


def test_help_shows_defaults_and_an_example(capsys):
    status, out, _ = run_main(["--help"], capsys)
    assert status == 0 and "default: 0.01" in out and "example: python -m miro_jax.annotate" in out


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rewards": "beauty,taste"}, "sharpness.*taste"),
        ({"source": "zip:x"}, "'tar'"),
        ({"source": "tar:/nowhere/*.tar"}, "/nowhere/"),
        ({"image-encoder": "vae9"}, "pixels.*vae9"),
        ({"image-encoder": "pixels:speed=3"}, "speed"),
        ({"caption-encoder": "words:width"}, "KEY=VALUE"),
        ({"batch-size": "0"}, "batch_size"),
        ({"num-bins": "x"}, "invalid int"),
        ({"out": "/dev/null/x"}, "must be a folder"),
        ({"out": None}, "--out"),
    ],
)
def test_bad_argument_exits_with_2_and_is_named(tmp_path, capsys, change, text):
    make_pieces(tmp_path / "source", 1, 2)
    flags = {
        "source": f"tar:{tmp_path}/source/*.tar",
        "out": f"{tmp_path}/out",
        "rewards": "beauty",
    }
    flags |= change
    arguments = [f"--{name}={value}" for name, value in flags.items() if value is not None]
    status, _, err = run_main(arguments, capsys)
    assert status == 2 and re.search(text, err)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_too_many_failures_exit_with_1(tmp_path, capsys):
    path = write_tar(tmp_path / "a.tar", sample(0, caption="") + sample(1))
    arguments = [f"--source=tar:{path}", f"--out={tmp_path}/out", "--rewards=beauty"]
    status, _, err = run_main(arguments, capsys)
    assert status == 1 and "missing caption (1)" in err
