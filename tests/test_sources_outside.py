"""What a source may read: regular files below its own root, by its own scheme, and no more."""

import contextlib
import http.server
import os
import socket
import threading
import time

import pyarrow
import pytest
from pyarrow import parquet

from miro_jax.data.sources import Tables, open_source
from miro_jax.data.sources.images import BadImage
from miro_jax.score import inputs
from tests import stores
from tests.sources import jpeg, read


@pytest.fixture
def server():
    """A server on this machine: its address, and the paths that were asked for."""
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append(self.path)
            name = self.path.strip("/")
            status = int(name) if name.isdigit() else 200
            body = jpeg(7) if status == 200 else b"gone"
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_HEAD = do_GET

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as httpd:
        thread = threading.Thread(target=httpd.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{httpd.server_port}", asked
        httpd.shutdown()
        thread.join()


def unused_port():
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def outcome(sample):
    if sample.problem:
        return sample.problem
    try:
        return sample.read()
    except BadImage as error:
        assert error.detail
        return error.cause


def rows(folder, *places, allow_urls=False, kind="table"):
    """What becomes of rows with these paths; the last one is good."""
    (folder / "in").mkdir(exist_ok=True)
    (folder / "in" / "good.jpg").write_bytes(jpeg(1))
    columns = {"path": [*places, "in/good.jpg"], "caption": ["x"] * (len(places) + 1)}
    parquet.write_table(pyarrow.table(columns), folder / "t.parquet")
    if kind == "table":
        pieces = open_source(f"table:{folder}/t.parquet", allow_urls).pieces
    else:
        table = inputs.open_rows([f"{folder}/t.parquet"], None, None)
        pieces = inputs.open_input([f"{folder}/t.parquet"], table, Tables(), allow_urls).pieces
    *found, good = [outcome(sample) for piece in pieces for sample in piece.samples()]
    assert good == jpeg(1)  # a bad row concerns no other one
    return found


@pytest.mark.parametrize("kind", ["table", "score"])
def test_rows_read_below_the_folder_of_their_table_alone(tmp_path, server, kind):
    address, asked = server
    folder, secret = tmp_path / "data", tmp_path / "secret.jpg"
    folder.mkdir()
    secret.write_bytes(jpeg(9))
    (folder / "own.jpg").write_bytes(jpeg(2))
    (tmp_path / "data-2").mkdir()
    (tmp_path / "data-2" / "secret.jpg").write_bytes(jpeg(9))
    outside = [
        f"{folder}-2/secret.jpg",
        "../data-2/secret.jpg",
        f"{address}/a.jpg",
        f"simplecache::{address}/a.jpg",
        f"filecache::{address}/a.jpg",
        f"{address}/a.jpg::{address}/b.jpg",
        "memory://a.jpg",
        f"file://{secret}",
        f"local://{secret}",
        str(secret),
        "../secret.jpg",
        "in/../../secret.jpg",
        "/etc/hostname",
        "/proc/self/environ",
    ]
    assert rows(folder, *outside, kind=kind) == ["outside the source"] * len(outside)
    assert asked == []
    inside = [str(folder / "own.jpg"), "in/../own.jpg", f"file://{folder}/own.jpg"]
    assert rows(folder, *inside, kind=kind) == [jpeg(2)] * 3


def test_urls_are_read_where_the_user_allows_them(tmp_path, server):
    address, asked = server
    (tmp_path / "data").mkdir()
    (tmp_path / "secret.jpg").write_bytes(jpeg(9))
    closed = f"http://127.0.0.1:{unused_port()}/a.jpg"
    places = [f"{address}/a.jpg", "../secret.jpg", f"{address}/404", f"{address}/403"]
    places += [f"{address}/503", f"{address}/429", closed, f"simplecache::{address}/x.jpg"]
    places += ["nosuch://a/b.jpg", "http://[/", "http://127.0.0.1:99999/"]
    found = rows(tmp_path / "data", *places, allow_urls=True)
    assert found[:2] == [jpeg(7), jpeg(9)]
    assert found[2:4] == ["missing image", "unreadable file"]
    assert found[4:8] == ["unreachable"] * 3 + ["outside the source"]
    assert found[8] == "unreadable file" and set(found[9:]) <= {"unreadable file", "unreachable"}
    assert "/x.jpg" not in asked


@pytest.mark.parametrize("spec", ["tar:{}/a.tar", "table:{}/a.parquet", "tar:{}/*.tar",
                                  "folder:{}/x", "folder:/tmp?captions={}/a.csv"])  # fmt: skip
def test_a_source_whose_server_is_down_is_not_taken_for_an_empty_one(spec):
    with pytest.raises(OSError) as caught:
        open_source(spec.replace("{}", f"http://127.0.0.1:{unused_port()}"))
    assert not isinstance(caught.value, FileNotFoundError)


def test_what_is_allowed_is_part_of_the_request(tmp_path):
    rows(tmp_path)
    facts = []
    for path in ("t.parquet", "in"):
        table = inputs.open_rows([f"{tmp_path}/{path}"], None, None)
        for allowed in ((), (True,)):
            words = [f"{tmp_path}/{path}"]
            facts.append(inputs.open_input(words, table, Tables(), *allowed).facts)
    facts += [open_source(f"folder:{tmp_path}", *allowed).facts for allowed in ((), (True,))]
    for without, allowed in zip(facts[::2], facts[1::2], strict=True):
        assert allowed == without | {"allow_urls": True} and "allow_urls" not in without


def test_a_connection_refused_is_no_missing_image():
    root = inputs.Root(f"http://127.0.0.1:{unused_port()}/data")
    with pytest.raises(ConnectionError, match="unreachable"):  # so are all others of this source
        root.read("a.jpg")


@pytest.mark.parametrize("place", ["../secret.jpg", "/x/secret.jpg", "a/../../secret.jpg",
                                   "%2e%2e/secret.jpg", "..%2fsecret.jpg", "..\\secret.jpg",
                                   "memory://other/secret.jpg", "a::memory://data/in/good.jpg",
                                   "/etc/hostname", "{}/secret.jpg", "{}/data-2/secret.jpg"],
)  # fmt: skip
def test_a_table_in_a_store_reads_below_its_own_folder(tmp_path, place):
    folder, address = tmp_path / "data", f"memory://{tmp_path.name}"
    folder.mkdir()
    for name in ("secret.jpg", "data-2/secret.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(jpeg(9))
    rows(folder, place.replace("{}", address))
    stores.upload(tmp_path, address)
    bad, good = read(f"table:{address}/data/t.parquet")
    is_below = place in ("/x/secret.jpg", "/etc/hostname")  # a store knows no other root
    assert outcome(bad) == ("missing image" if is_below else "outside the source")
    assert outcome(good) == jpeg(1)


def make(folder):
    folder.mkdir(parents=True)
    (folder / "a.jpg").write_bytes(jpeg(1))
    (folder / "a.txt").write_text("own")
    return folder


def test_links_that_leave_the_folder_are_not_followed_and_others_are(tmp_path):
    folder = make(tmp_path / "data")
    (tmp_path / "secret.txt").write_text("secret")
    (tmp_path / "secret.jpg").write_bytes(jpeg(9))
    for name in "bcd":
        (folder / f"{name}.jpg").write_bytes(jpeg(2))
    (folder / "b.txt").symlink_to("../secret.txt")
    (folder / "c.json").symlink_to("/proc/kmsg")
    (folder / "d.txt").symlink_to("a.txt")
    (folder / "e.jpg").symlink_to(tmp_path / "secret.jpg")
    begin = time.perf_counter()
    found = {s.key: (s.caption, outcome(s)) for s in read(f"folder:{folder}")}
    assert time.perf_counter() - begin < 5
    assert found == {
        "a.jpg": ("own", jpeg(1)),
        "b.jpg": (None, "unreadable caption"),
        "c.jpg": (None, "unreadable json"),
        "d.jpg": ("own", jpeg(2)),
        "e.jpg": (None, "missing caption"),
    }
    (allowed,) = [s for s in open_source(f"folder:{folder}", True).pieces[0].samples()
                  if s.key == "b.jpg"]  # fmt: skip
    assert allowed.caption == "secret"
    samples = open_source(f"folder:{folder}").pieces[0].samples(needs_caption=False)
    assert outcome(list(samples)[-1]) == "outside the source"


def test_the_folder_itself_and_the_folders_above_may_be_links(tmp_path):
    make(tmp_path / "real" / "data")
    (tmp_path / "link").symlink_to(tmp_path / "real")
    (tmp_path / "direct").symlink_to(tmp_path / "real" / "data")
    for folder in (tmp_path / "link" / "data", tmp_path / "direct"):
        (sample,) = read(f"folder:{folder}")
        assert (sample.caption, outcome(sample)) == ("own", jpeg(1))
    assert rows(tmp_path / "link", str(tmp_path / "real" / "data" / "a.jpg")) == [jpeg(1)]


def test_a_snapshot_of_the_hubs_cache_is_read_though_it_is_made_of_links(tmp_path):
    cache = tmp_path / "datasets--me--set"
    snapshot = cache / "snapshots" / "0a1b"
    (cache / "blobs").mkdir(parents=True)
    snapshot.mkdir(parents=True)
    for name, content in (("a.jpg", jpeg(1)), ("a.txt", b"own"), ("evil.jpg", None)):
        blob = cache / "blobs" / f"of {name}"
        blob.write_bytes(content) if content else blob.symlink_to(tmp_path / "secret.jpg")
        (snapshot / name).symlink_to(blob)
    (tmp_path / "secret.jpg").write_bytes(jpeg(9))
    samples = open_source(f"folder:{snapshot}").pieces[0].samples(needs_caption=False)
    assert [outcome(sample) for sample in samples] == [jpeg(1), "outside the source"]


@pytest.mark.parametrize("option", ["captions", "synthetic"])
@pytest.mark.parametrize("kind", ["fifo", "device", "socket"])
def test_pipes_and_devices_are_refused_and_never_waited_for(tmp_path, option, kind):
    folder, path = make(tmp_path / "data"), tmp_path / "t.csv"
    with contextlib.ExitStack() as stack:
        if kind == "fifo":
            os.mkfifo(path)
        elif kind == "device":
            path.symlink_to("/dev/zero")
        else:
            stack.enter_context(socket.socket(socket.AF_UNIX)).bind(str(path))
        for spec in (f"folder:{folder}?{option}={path}", f"tar:{path}", f"table:{path}"):
            with pytest.raises((ValueError, FileNotFoundError), match="t.csv"):
                open_source(spec)


def test_a_pipe_that_takes_the_place_of_a_file_is_not_waited_for(tmp_path):
    folder = make(tmp_path / "data")
    (sample,) = read(f"folder:{folder}")
    (folder / "a.jpg").unlink()
    os.mkfifo(folder / "a.jpg")
    assert outcome(sample) == "not a file"


def test_files_without_a_size_hold_nothing(tmp_path):
    for pattern in ("/proc/kmsg", "/proc/self/stat"):
        (found,) = read(f"tar:{pattern}")
        assert found.problem == "damaged tar" and "empty" in found.detail
