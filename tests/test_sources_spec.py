"""The text that names a source, and which files it means."""

import subprocess

import fsspec
import pytest

from miro_jax.data.sources import open_source
from miro_jax.data.sources.listing import expand, fixed_folder, match_files, split_list, walk
from miro_jax.data.sources.spec import KINDS, parse
from tests.sources import triple, write_tar


def test_a_spec_is_kind_place_and_options():
    spec = parse("tar:/data/{00..09}.tar?captions=a=b.csv&synthetic=/c.tsv")
    assert (spec.kind, spec.path) == ("tar", "/data/{00..09}.tar")
    assert spec.options == {"captions": "a=b.csv", "synthetic": "/c.tsv"}
    assert parse("folder:file:///data").path == "/data"


@pytest.mark.parametrize("place", ["/data/0000?.tar", "/data/?a?.tar", "/d/?.tar", "gs://b/??"])
def test_a_question_mark_without_options_is_a_wild_card(place):
    spec = parse("tar:" + place)
    assert spec.path == place and not spec.options


def test_wild_cards_and_options_go_together():
    spec = parse("tar:/data/??.tar?synthetic=a.tsv")
    assert (spec.path, spec.options) == ("/data/??.tar", {"synthetic": "a.tsv"})


@pytest.mark.parametrize("text", ["/data/*.tar", "zip:/data/*.zip", "", "tar", "tar:", "Tar:/a"])
def test_an_unknown_kind_is_named_with_the_known_ones(text):
    with pytest.raises(ValueError, match="tar") as caught:
        parse(text)
    assert repr(text) in str(caught.value) and all(kind in str(caught.value) for kind in KINDS)


def test_a_path_without_a_kind_is_guessed(tmp_path):
    for text, kind in ((str(tmp_path), "folder"), ("a/b.parquet", "table"), ("b.tar", "tar")):
        with pytest.raises(ValueError, match=f"Did you mean '{kind}:{text}'"):
            parse(text)


@pytest.mark.parametrize("name", ["b.csv", "b.tsv", "a/b.JSONL"])
def test_a_table_of_captions_is_no_source_and_its_use_is_shown(tmp_path, name):
    with pytest.raises(ValueError, match=rf"'folder:DIR\?captions={name}'"):
        parse(name)
    (tmp_path / name.rpartition("/")[2]).write_text("path,caption\n0.jpg,a\n")
    with pytest.raises(ValueError, match=r"parquet file\. Make it .*folder:DIR\?captions=.*b\."):
        open_source(f"table:{tmp_path}/b.*")
    (tmp_path / "a.arrow").write_bytes(b"\xff\xff\xff\xff")  # what save_to_disk writes, with JSON
    with pytest.raises(ValueError, match=r"a.arrow is no parquet file(?!.*captions=)"):
        open_source(f"table:{tmp_path}/*.*")


@pytest.mark.parametrize("text", ["pipe:cat {0..1}.tar", "tar:pipe:cat a.tar"])
def test_a_command_is_refused(text):
    with pytest.raises(ValueError, match="the command '.*' is not run"):
        parse(text)


@pytest.mark.parametrize("options", ["color=red", "synthetic=a&synthetic=b", "synthetic="])
def test_unknown_repeated_and_empty_options_are_refused_with_the_known_ones(options):
    with pytest.raises(ValueError, match="captions, synthetic"):
        parse("tar:/a.tar?" + options)


@pytest.mark.parametrize("number", ["0", "-1", "many", "1.5"])
def test_a_number_that_is_none_is_refused(tmp_path, number):
    with pytest.raises(ValueError, match=f"per_piece.*{number}"):
        open_source(f"folder:{tmp_path}?per_piece={number}")


def test_braces_are_written_out():
    assert expand("/d/{008..010}.tar") == ["/d/008.tar", "/d/009.tar", "/d/010.tar"]
    assert expand("{a,b}{1..2}") == ["a1", "a2", "b1", "b2"]
    assert expand("{8..11}") == ["8", "9", "10", "11"]
    assert expand("plain") == ["plain"]
    assert expand("{3..1}") == ["3", "2", "1"]


def test_matches_are_sorted_and_each_file_comes_once(tmp_path):
    (tmp_path / "deep").mkdir()
    for name in ("b.tar", "a.tar", "deep/c.tar", "d.txt"):
        (tmp_path / name).write_bytes(b"x" * len(name))
    (tmp_path / "folder.tar").mkdir()
    found = match_files(f"{tmp_path}/{{*,a}}.tar")
    assert found == [(f"{tmp_path}/a.tar", 5), (f"{tmp_path}/b.tar", 5)]
    assert match_files(f"{tmp_path}/{{b,a}}.tar::{tmp_path}/d*") == [
        *found,
        (f"{tmp_path}/d.txt", 5),
    ]
    assert match_files(f"{tmp_path}/{{b,a}}.tar") == found
    assert f"{tmp_path}/deep/c.tar" in [f.path for f in match_files(f"{tmp_path}/**/*.tar")]


def test_a_file_of_two_spellings_comes_once_and_at_one_place(tmp_path, monkeypatch):
    for folder in "ab":
        (tmp_path / folder).mkdir()
        write_tar(tmp_path / folder / "0.tar", triple("k", 1))
    monkeypatch.chdir(tmp_path)
    spellings = ("a/*.tar::./a/0.tar::b//0.tar", "a/0.tar::{0}/b/*.tar", "{0}/a/0.tar::b/0.tar")
    for text in spellings:  # workers in other folders of a host write the same places so
        pieces = open_source("tar:" + text.format(tmp_path)).pieces
        assert [piece.id for piece in pieces] == ["a/0.tar", "b/0.tar"]


def test_braces_in_a_name_stand_for_themselves(tmp_path):
    (tmp_path / "{x}").mkdir()
    (tmp_path / "{x}" / "a.tar").write_bytes(b"x")
    assert [f.path for f in match_files(f"{tmp_path}/{{x}}/*.tar")] == [f"{tmp_path}/{{x}}/a.tar"]


def test_a_link_to_nothing_is_named(tmp_path):
    (tmp_path / "a.tar").write_bytes(b"x")
    (tmp_path / "b.tar").symlink_to(tmp_path / "gone.tar")
    with pytest.raises(FileNotFoundError, match="b.tar is a link to nothing"):
        match_files(f"{tmp_path}/*.tar")


def test_the_users_folder_may_be_written_short(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    spec = parse("tar:~/data/*.tar?synthetic=~/s.tsv")
    assert spec.path == "/home/me/data/*.tar" and spec.options == {"synthetic": "/home/me/s.tsv"}


def test_a_shard_that_braces_name_and_that_is_not_there_is_named(tmp_path):
    (tmp_path / "00.tar").touch()
    with pytest.raises(FileNotFoundError, match="01.tar"):
        open_source(f"tar:{tmp_path}/{{00..01}}.tar")
    with pytest.raises(FileNotFoundError, match="none.tar"):
        open_source(f"tar:{tmp_path}/none.tar")


@pytest.mark.parametrize("pattern", ["/a/b/*.tar", "/a/b/{0..1}/x.tar", "/a/b/c.tar", "/a/b/c*/**"])
def test_names_are_relative_to_a_folder_that_does_not_depend_on_what_matches(pattern):
    assert fixed_folder(pattern) == "/a/b"


def test_walking_is_sorted_and_passes_over_hidden_names_and_links_to_folders(tmp_path):
    for name in ("b/2.jpg", "b/1.jpg", "a.jpg", "b-c/x.jpg", ".git/x.jpg", "b/.x.jpg", "c/d/y.jpg"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(b"12")
    (tmp_path / "link").symlink_to(tmp_path / "b")
    (tmp_path / "lost.jpg").symlink_to(tmp_path / "nowhere")
    listed = list(walk(str(tmp_path)))
    assert [(prefix, [f.path for f in files]) for prefix, files in listed] == [
        ("", ["a.jpg", "lost.jpg"]),
        ("b/", ["1.jpg", "2.jpg"]),
        ("b-c/", ["x.jpg"]),
        ("c/", []),
        ("c/d/", ["y.jpg"]),
    ]
    assert dict(listed[0][1]) == {"a.jpg": 2, "lost.jpg": -1}


BRACES = """
{008..011} {8..11} {00..02} {3..1} {0{0..2},1{0..1}} {a,b}{1..2} {a} {{a,b}} {{a}} {a,{b}} {}
{a,} {,a}x {a,b a,b} {c..a} {a..e..2} {1..10..3} {10..1..3} {01..10..3} {-2..2} {-02..2}
{1..2..0} {1..a} {{1..2},{4..5}} {1.5..2} {1..2 {a,b}{ {{1..2} }{a,b} {00..0} {1..-1} a{b}c{d,e}
{+1..3} {a,b}} {,} {1,2,{3..5}} {x,y}{} {..} {1..} s-{00000..00012..4}-{x,y{1,2}}.tar plain
""".split()


@pytest.mark.parametrize("pattern", BRACES)
def test_braces_are_those_of_bash(pattern):
    done = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {pattern}"], capture_output=True, text=True, check=True
    )
    assert [word for word in expand(pattern) if word] == done.stdout.split()


def test_braces_that_stand_for_too_many_names_are_refused_at_once():
    for pattern in ("{0..99999999999}", "{0..99999}{0..99999}"):
        with pytest.raises(ValueError, match="at most 10000000 names"):
            expand(pattern)


def test_patterns_follow_each_other_with_colons_and_mix_braces_and_wild_cards(tmp_path):
    for name in ("a/00.tar", "a/01.tar", "b/x.tar", "b/y1.tar", "b/{z}.tar"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        write_tar(tmp_path / name, triple("k", 1))
    root = str(tmp_path)
    pieces = open_source(f"tar:{root}/a/{{00..01}}.tar::{root}/b/{{x,y*}}.tar").pieces
    assert [piece.id for piece in pieces] == ["a/00.tar", "a/01.tar", "b/x.tar", "b/y1.tar"]
    assert [s.problem for piece in pieces for s in piece.samples()] == [""] * 4
    assert [p.id for p in open_source(f"tar:{root}/b/{{z}}.tar").pieces] == ["{z}.tar"]
    assert [p.id for p in open_source(f"tar:{root}/b/{{x}}.tar").pieces] == ["x.tar"]
    with pytest.raises(FileNotFoundError, match=r"b/w.tar"):
        open_source(f"tar:{root}/a/*.tar::{root}/b/w.tar")
    with pytest.raises(ValueError, match="one storage"):
        open_source(f"tar:{root}/a/*.tar::memory://b/*.tar")


def test_a_chain_is_one_pattern():
    assert split_list("simplecache::gs://b/{0,1}.tar::gs://b/c.tar") == [
        "simplecache::gs://b/{0,1}.tar",
        "gs://b/c.tar",
    ]
    assert split_list("a::b.tar") == ["a", "b.tar"]


def test_patterns_mean_in_a_store_what_they_mean_here(tmp_path):
    names = ("a-0.tar", "a-1.tar", ".hidden.tar", "sub/c-0.tar")
    store = fsspec.filesystem("memory")
    for name in names:
        store.pipe(f"/patterns/{name}", b"x")
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    for pattern in ("*.tar", "a-{0..1}.tar", "**/*.tar", "a**.tar", "a-[!0].tar", ".h*.tar"):
        here, there = (
            [file.path.removeprefix(f"{root}/") for file in match_files(f"{root}/{pattern}")]
            for root in (str(tmp_path), "memory://patterns")
        )
        assert here == there, pattern
    for root in (str(tmp_path), "memory://patterns"):
        with pytest.raises(FileNotFoundError, match=r"It is a folder: add a pattern .*/sub/\*"):
            match_files(f"{root}/sub")
