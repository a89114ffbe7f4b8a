"""Sources behind a scheme: the same samples as from a disk."""

import pathlib

import fsspec
import pyarrow
import pytest
from pyarrow import parquet

from miro_jax.data.sources import open_source, reading
from miro_jax.data.sources.images import BadImage
from miro_jax.data.sources.listing import match_files
from miro_jax.data.storage.remote import open_url
from tests import stores
from tests.builders.tiny_pairs import TinyPairs
from tests.sources import jpeg, read, triple, write_tar


@pytest.fixture(params=["memory", "make_bucket", "make_gs_bucket"])
def remote(request, tmp_path):
    """A folder, and what copies it into a store and returns the address."""
    memory = f"memory://{tmp_path.name}"
    address = memory if request.param == "memory" else request.getfixturevalue(request.param)()

    def upload():
        stores.upload(tmp_path, address)
        return address

    return tmp_path, upload


def same(spec, folder, address):
    """Read a spec that holds {} from both places; return the samples if they agree."""
    ours, theirs = (read(spec.replace("{}", place)) for place in (str(folder), address))
    assert len(ours) == len(theirs)
    for a, b in zip(ours, theirs, strict=True):
        assert (a.key, a.caption, a.synthetic, a.meta, a.problem) == (
            b.key,
            b.caption,
            b.synthetic,
            b.meta,
            b.problem,
        )
        if not a.problem:
            assert a.read() == b.read()
    prints = [
        [
            (p.id, p.num_bytes, p.fingerprint())
            for p in open_source(spec.replace("{}", place)).pieces
        ]
        for place in (str(folder), address)
    ]
    assert prints[0] == prints[1]
    return ours


@pytest.mark.over_a_second
def test_tar_shards(remote):
    folder, upload = remote
    for number in range(3):
        (folder / "deep").mkdir(exist_ok=True)
        members = [m for i in range(4) for m in triple(f"k{i}", i)]
        write_tar(folder / "deep" / f"{number:02d}.tar", members)
    damaged = bytearray((folder / "deep" / "01.tar").read_bytes())
    damaged[5 * 512] ^= 255
    (folder / "deep" / "01.tar").write_bytes(damaged)
    (folder / "s.tsv").write_text("k1\tshort\tlong\n")
    address = upload()
    for pattern in ("*.tar", "{00..02}.tar", "0[12].tar"):
        samples = same("tar:{}/deep/" + pattern, folder, address)
        assert samples[-1].key == "02.tar/k3"
    assert same("tar:{}/deep/02.tar?synthetic={}/s.tsv", folder, address)[1].synthetic
    with pytest.raises(FileNotFoundError, match="03.tar"):
        open_source(f"tar:{address}/deep/{{02..03}}.tar")


def test_a_folder_whose_names_stand_among_those_of_an_image_and_its_text(remote):
    folder, upload = remote
    for name in ("1", "1.m/2", "1.m/k/3", "b/4"):  # "1.jpg" < "1.m" < "1.txt"
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.jpg").write_bytes(jpeg(len(name)))
        (folder / f"{name}.txt").write_text(f"text of {name}")
    samples = same("folder:{}", folder, upload())
    assert [s.caption for s in samples] == [
        f"text of {n}" for n in ("1", "1.m/2", "1.m/k/3", "b/4")
    ]


@pytest.mark.over_a_second
def test_folders(remote):
    folder, upload = remote
    for name in ("b/1", "b-c/2", "0", "a/x/3"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.jpg").write_bytes(jpeg(1))
        (folder / f"{name}.txt").write_text(name)
    (folder / "c.csv").write_text("path,caption\nb/1.jpg,other\n")
    address = upload()
    samples = same("folder:{}?per_piece=3", folder, address)
    assert [s.caption for s in samples] == ["0", "a/x/3", "b/1", "b-c/2"]
    assert same("folder:{}?captions={}/c.csv", folder, address)[2].caption == "other"
    assert same("folder:{}/b?captions={}/c.csv", folder, address)[0].caption == "other"
    (lost,) = read(f"folder:{address}/b")
    system, root = open_url(address)
    system.rm(f"{root}/b/1.jpg")
    with pytest.raises(BadImage, match="missing image"):
        lost.read()
    with pytest.raises(FileNotFoundError, match="nowhere"):
        open_source(f"folder:{address}/nowhere")


def test_a_file_that_is_replaced_after_it_was_listed_is_noticed(remote):
    folder, upload = remote
    write_tar(folder / "0.tar", triple("k", 0))
    (folder / "1.jpg").write_bytes(jpeg(1))
    address = upload()
    other, root = fsspec.core.url_to_fs(address, skip_instance_cache=True)  # another's client
    for name, spec in (("0.tar", f"tar:{address}/*.tar"), ("1.jpg", f"folder:{address}")):
        (piece,) = open_source(spec).pieces
        before = piece.fingerprint()
        other.pipe_file(f"{root}/{name}", (folder / name).read_bytes() + bytes(10240))
        (now,) = open_source(spec).pieces
        assert piece.fingerprint(again=True) == now.fingerprint() != before
        assert [s.key for s in piece.samples()] == [s.key for s in now.samples()]


@pytest.mark.over_a_second
def test_hidden_names_match_only_on_request(remote):
    folder, upload = remote
    for name in ("a/0.tar", "a/.1.tar", "a/.deep/2.tar", ".b/3.tar"):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        write_tar(folder / name, triple("k", 0))
    address = upload()
    for pattern, count in (
        ("**/*.tar", 1),
        ("*/*.tar", 1),
        ("a/**", 1),
        ("a/.*.tar", 1),
        ("*/.deep/*.tar", 1),
        (".b/*.tar", 1),
    ):
        assert len(same("tar:{}/" + pattern, folder, address)) == count


def test_parquet_tables(remote):
    folder, upload = remote
    table = pyarrow.table({"image": [jpeg(i) for i in range(5)], "caption": list("abcde")})
    parquet.write_table(table, folder / "a.parquet", row_group_size=2)
    (folder / "in").mkdir()
    (folder / "in" / "x.jpg").write_bytes(jpeg(9))
    links = pyarrow.table({"path": ["in/x.jpg"], "caption": ["x"]})
    parquet.write_table(links, folder / "b.parquet")
    samples = same("table:{}/*.parquet?per_piece=2", folder, upload())
    assert [s.caption for s in samples] == list("abcdex")


def test_tensorflow_datasets(remote):
    folder, upload = remote
    TinyPairs(data_dir=folder, file_format="array_record").download_and_prepare()
    assert len(same("tfds:tiny_pairs:1.0.0@{}", folder, upload())) == 20


def test_tables_of_captions_in_parquet(remote):
    folder, upload = remote
    (folder / "1.jpg").write_bytes(jpeg(1))
    parquet.write_table(pyarrow.table({"file": ["1"], "text": ["one"]}), folder / "c.parquet")
    (sample,) = same("folder:{}?captions={}/c.parquet", folder, upload())
    assert sample.caption == "one"


def test_an_unknown_scheme_is_named_with_what_to_install():
    with pytest.raises(ValueError, match=r"nope://bucket.*miro_jax\[gcs\]"):
        open_source("tar:nope://bucket/*.tar")


def test_paths_of_both_kinds_are_joined_and_taken_apart():
    assert reading.join("gs://b/c", "d.jpg") == "gs://b/c/d.jpg"
    assert reading.join("/b/c", "/d.jpg") == "/d.jpg"
    assert reading.join("/b/c", "gs://d/e.jpg") == "gs://d/e.jpg"
    assert reading.parent("gs://b/c/d.tar") == "gs://b/c"
    assert reading.parent("gs://b") == "gs://" and reading.relative("gs://b/c", "gs://") == "b/c"
    assert reading.parent("d.tar") == str(pathlib.Path.cwd())
    assert reading.relative("gs://b/c/d.tar", "gs://b") == "c/d.tar"


def test_an_empty_file_is_a_damaged_piece_there_as_here(remote):
    folder, upload = remote
    write_tar(folder / "a.tar", triple("x", 1))
    (folder / "b.tar").touch()
    found = same("tar:{}/*.tar", folder, upload())
    assert [s.problem for s in found] == ["", "damaged tar"]


def test_a_stores_client_that_cannot_connect_is_no_traceback(monkeypatch):
    def broken(*_args, **_options):
        raise RuntimeError("Name or service not known")  # as httpx, whose errors are no OSError

    monkeypatch.setattr(open_url("memory://b")[0], "glob", broken)
    with pytest.raises(ConnectionError, match=r"memory://b/\*.tar is unreachable: .* not known"):
        match_files("memory://b/*.tar")
