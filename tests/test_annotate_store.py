"""The annotate stage from an object store into an object store, over S3's protocol."""

import pathlib
import random
import signal
import subprocess
import sys
import time

import pytest
import s3fs

from miro_jax import annotate
from miro_jax.data.shapes import world
from tests import stores
from tests.annotating import contents

ROOT = pathlib.Path(__file__).parent.parent
SAMPLES, SHARDS = 96, 4


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    world.write_shards(folder, SAMPLES, 24, SAMPLES // SHARDS, image_format="jpg")
    return folder


@pytest.fixture
def bucket(make_bucket, source):
    address = make_bucket()
    stores.upload(source, f"{address}/source")
    return address


@pytest.fixture(scope="module")
def whole(source, tmp_path_factory):
    """What an uninterrupted run writes to a disk."""
    out = tmp_path_factory.mktemp("whole")
    assert annotate.main(arguments(source, out)) == 0
    return contents(out)


def arguments(source, out, *more):
    return [
        f"--source=tar:{source}/*.tar",
        f"--out={out}",
        "--rewards=beauty,colors",
        "--image-encoder=pixels:size=24",
        "--caption-encoder=words:width=16,max_tokens=16",
        "--batch-size=8",
        *more,
    ]


@pytest.mark.slow
def test_a_store_gets_the_bytes_that_a_disk_gets(bucket, whole, monkeypatch):
    asked = []
    call = s3fs.S3FileSystem._call_s3

    async def counted(self, method, *given, **keywords):
        asked.append((method, keywords.get("Key", "")))
        return await call(self, method, *given, **keywords)

    monkeypatch.setattr(s3fs.S3FileSystem, "_call_s3", counted)
    assert annotate.main(arguments(f"{bucket}/source", f"{bucket}/out")) == 0
    assert stores.contents(f"{bucket}/out") == whole
    reads = [key for method, key in asked if method == "get_object" and key.endswith(".tar")]
    # Beginning and end for the fingerprint, before and after; all of it for the samples, once more
    # for the report.
    assert len(reads) == 6 * SHARDS


@pytest.mark.slow
def test_google_s_store_gets_the_bytes_that_a_disk_gets(make_gs_bucket, source, whole):
    bucket = make_gs_bucket()
    stores.upload(source, f"{bucket}/source")
    assert annotate.main(arguments(f"{bucket}/source", f"{bucket}/out")) == 0
    assert stores.contents(f"{bucket}/out") == whole


@pytest.mark.slow
def test_workers_in_a_store_killed_at_random_moments_end_like_an_uninterrupted_run(bucket, whole):
    rng, killed = random.Random(1), 0
    given = arguments(f"{bucket}/source", f"{bucket}/out")
    command = [sys.executable, "-m", "miro_jax.annotate", *given]
    for _ in range(4):
        # Both at work on all pieces: they meet on every one.
        two = [subprocess.Popen(command, cwd=ROOT, stderr=subprocess.DEVNULL) for _ in range(2)]
        deadline = time.monotonic() + 60
        while not stores.names(f"{bucket}/out") and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(rng.uniform(0, 0.6))
        for process in two:
            process.send_signal(signal.SIGKILL)
        ends = [process.wait() for process in two]
        assert all(end in (0, -signal.SIGKILL) for end in ends)
        killed += -signal.SIGKILL in ends
    assert killed >= 1
    assert annotate.main(given) == 0
    assert stores.contents(f"{bucket}/out") == whole


@pytest.mark.parametrize(
    ("change", "status", "said"),
    [
        ({"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}, 1, "is unreachable: EndpointConnectionError"),
        ({"AWS_ACCESS_KEY_ID": None, "AWS_EC2_METADATA_DISABLED": "true"}, 1, "set AWS_PROFILE"),
        ({"OUT": "s3://no-such-bucket/out"}, 2, "must be a folder that can be written"),
        ({"SOURCE": "s3://no-such-bucket/x"}, 2, "must match at least one file"),
    ],
)
def test_a_store_that_does_not_answer_is_told_in_one_line(
    bucket, monkeypatch, capsys, change, status, said
):
    """Trouble of the network is status 1, which schedulers try again."""
    source, out = change.get("SOURCE", f"{bucket}/source"), change.get("OUT", f"{bucket}/out")
    s3fs.S3FileSystem.clear_instance_cache()  # a file system keeps its connection
    with monkeypatch.context() as patch:
        patch.setattr(s3fs.S3FileSystem, "retries", 1)
        patch.setenv("AWS_MAX_ATTEMPTS", "1")
        for name, value in change.items():
            patch.delenv(name) if value is None else patch.setenv(name, value)
        assert annotate.main(arguments(source, out)) == status
    s3fs.S3FileSystem.clear_instance_cache()
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and said in err
