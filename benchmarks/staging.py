"""How quickly records of a store are staged, against what the store gives to a plain client.

    python benchmarks/staging.py                     # 2,048 records of 135 KB in 16 shards
    python benchmarks/staging.py --records=256 --rounds=1 --steps=4      # to try it

The store is moto's S3 server, in a process of its own on this machine. In each round, in turn:

    get      a plain client fetches all shards by ranges of 8 MB, as many at a time as staging does,
             and keeps nothing
    stage    all shards come to an empty disk, and each is compared with its digest

Then the network of `loader.py` is trained on the records of the folder, and of the store from an
empty disk, in the same order by windows of four shards.
"""

import argparse
import concurrent.futures
import contextlib
import http.client
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

sys.path.insert(0, str(Path(__file__).parent.parent))

import fsspec

from benchmarks import loader, timing
from miro_jax.data.records import staging
from miro_jax.data.records.manifest import Manifest
from miro_jax.data.storage import RemoteFolder, mirror

NUM_SHARDS, AT_ONCE, RANGE, WINDOW = 16, staging._THREADS, 8 * 2**20, 4
BUCKET = "staging"
_SERVER = """
import sys
from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
sys.stdin.read()
server.stop()
"""


@contextlib.contextmanager
def serve() -> Iterator[None]:
    """Run a store in a process of its own, which our environment then names."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    quiet = subprocess.DEVNULL  # a line for each request
    with subprocess.Popen([sys.executable, "-c", _SERVER], stderr=quiet, **pipes) as server:
        port = int(server.stdout.readline())
        os.environ |= {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
            "AWS_ACCESS_KEY_ID": "x",
            "AWS_SECRET_ACCESS_KEY": "x",
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        try:
            yield
        finally:
            server.stdin.close()


def get(signed: dict[str, int]) -> None:
    """Fetch objects, signed URL -> size, as a plain client does."""

    def fetch(url: str) -> None:
        parts = urlsplit(url)
        connection = http.client.HTTPConnection(parts.netloc)
        for begin in range(0, signed[url], RANGE):
            last = min(begin + RANGE, signed[url]) - 1
            asked = {"Range": f"bytes={begin}-{last}"}
            connection.request("GET", f"{parts.path}?{parts.query}", headers=asked)
            if (got := len(connection.getresponse().read())) != last + 1 - begin:
                raise OSError(f"{url}: {got} bytes came of {last + 1 - begin}.")
        connection.close()

    with concurrent.futures.ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(fetch, signed))


def stage(copy: Path) -> None:
    """Bring all shards of a copy to the disk."""
    data = staging.StagedRecords(copy)
    data.at(0)
    for end in data._ends:
        data[end - 1]  # waits for its shard
    data.close()


def timed(work, *arguments, bytes_: int) -> dict[str, float]:
    """Do something; megabytes a second, and seconds of this process's processor time."""
    begin, used = time.perf_counter(), time.process_time()
    work(*arguments)
    wall, cpu = time.perf_counter() - begin, time.process_time() - used
    return {"mb_per_s": bytes_ / 1e6 / wall, "cpu_s_per_gb": 1e9 * cpu / bytes_}


def compare(url: str, signed: dict[str, int]) -> float:
    """Measure one round; returns the rate of staging by that of a plain client."""
    total = sum(signed.values())
    plain = timed(get, signed, bytes_=total)
    shutil.rmtree(mirror.scratch_root() / "records", ignore_errors=True)
    staged = timed(stage, staging.open_copy(url), bytes_=total)
    timing.emit("get", **plain)
    timing.emit("stage", **staged)
    return staged["mb_per_s"] / plain["mb_per_s"]


def main() -> None:
    """Run the script."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--records", type=int, default=2048)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=40, help="of training; 0 for none")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, serve():
        os.environ[mirror.VARIABLE] = f"{name}/scratch"
        folder, url = Path(name, "records"), f"s3://{BUCKET}/records"
        levels = loader.make_set(folder, flags.records, NUM_SHARDS)
        system = fsspec.filesystem("s3")
        system.mkdir(BUCKET)
        store = RemoteFolder(url)
        for path in folder.iterdir():
            store.put(path.name, path)
        sizes = {n: (folder / n).stat().st_size for n in sorted(Manifest.load(folder).shards)}
        signed = {system.sign(f"{BUCKET}/records/{n}", 3600): size for n, size in sizes.items()}
        ratios = [compare(url, signed) for _ in range(flags.rounds)]
        timing.emit("stage_by_get", each=[round(ratio, 3) for ratio in ratios])
        for case in ("folder", "store") if flags.steps else ():
            shutil.rmtree(mirror.scratch_root() / "records", ignore_errors=True)
            place = folder if case == "folder" else staging.open_copy(url)
            data = loader.open_set(place, levels, 2, shuffle_shards=WINDOW)
            timing.emit(f"train_{case}", **loader.train(data, flags.steps))
            data.close()


if __name__ == "__main__":
    main()
