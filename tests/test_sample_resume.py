"""A folder of images: resuming after a kill or a damage, and refusing what is another request's."""

import errno
import json
import os
import random

import pytest

from configs import base as configs
from miro_jax import sample
from miro_jax.data.storage import Damaged, LocalFolder
from miro_jax.data.storage.lease import locked
from miro_jax.sample import draw
from miro_jax.sample.folder import check_folder, open_folder
from miro_jax.sample.settings import Options
from tests.sampling import Dial, Killed, contents, fill, kill_at, write


@pytest.mark.parametrize("half", [False, True])
def test_work_that_is_killed_at_any_write_goes_on_to_the_same_bytes(tmp_path, monkeypatch, half):
    fill(tmp_path / "whole", num_images=3)
    expected = contents(tmp_path / "whole")
    assert len(expected) == 8  # six pictures, grid, manifest
    writes = 9  # and the request
    for count in range(1, writes + 1):
        path = tmp_path / f"{count}"
        with monkeypatch.context() as patch:
            kill_at(patch, count, half)
            with pytest.raises(Killed):
                fill(path, num_images=3)
        before = contents(path)
        assert "manifest.json" not in before
        fill(path, num_images=3)
        after = contents(path)
        assert after == expected
        assert all(after[name] == data for name, data in before.items() if name.endswith(".png"))


@pytest.mark.over_a_second
def test_work_that_is_killed_twenty_times_ends_with_the_same_bytes(tmp_path, monkeypatch):
    fill(tmp_path / "whole", num_images=40)
    expected, path, rng = contents(tmp_path / "whole"), tmp_path / "often", random.Random(0)
    for _ in range(20):
        with monkeypatch.context() as patch:
            kill_at(patch, rng.randint(1, 6), rng.random() < 0.5)
            with pytest.raises(Killed):
                fill(path, num_images=40)
    assert "manifest.json" not in contents(path) and len(contents(path)) > 20
    fill(path, num_images=40)
    assert contents(path) == expected and len(expected) > 80


def test_only_batches_with_missing_pictures_are_drawn_and_none_when_all_is_done(tmp_path):
    whole = fill(tmp_path, num_images=6)
    assert len(whole.calls) == 3  # twelve pictures in batches of four
    expected = contents(tmp_path)
    assert fill(tmp_path, num_images=6).calls == []
    (tmp_path / "0000-a-red-circle-5.png").unlink()
    untouched = (tmp_path / "0001-b-0.png").stat().st_mtime_ns
    again = fill(tmp_path, num_images=6)
    assert [call["prompts"] for call in again.calls] == [["A red circle!"] * 2 + ["b"] * 2]
    assert contents(tmp_path) == expected
    assert (tmp_path / "0001-b-0.png").stat().st_mtime_ns == untouched


DAMAGES = {
    "truncated": lambda data, other: data[:-20],
    "empty": lambda data, other: b"",
    "one bit": lambda data, other: data[:60] + bytes([data[60] ^ 1]) + data[61:],
    "another image": lambda data, other: other,
    "gone": None,
}


@pytest.mark.parametrize("name", ["0000-a-red-circle-5.png", "grid.png"])
@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("state", ["complete", "of an earlier version", "partial"])
def test_a_damaged_file_is_drawn_again_and_no_other(tmp_path, name, damage, state):
    """Before a file has a digest it counts if it can be read to its end."""
    fill(tmp_path, num_images=6)
    expected = contents(tmp_path)
    manifest = json.loads(expected["manifest.json"])
    if state == "of an earlier version":
        del manifest["sha256"]
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    elif state == "partial":
        (tmp_path / "manifest.json").rename(tmp_path / "manifest.partial.json")
    known = state == "complete"
    if damage == "another image" and not known:
        return  # nothing can tell
    if DAMAGES[damage] is None:
        (tmp_path / name).unlink()
    else:
        data = DAMAGES[damage](expected[name], expected["0001-b-0.png"])
        (tmp_path / name).write_bytes(data)
    untouched = {path.name: path.stat().st_mtime_ns for path in tmp_path.glob("0*.png")}
    again = fill(tmp_path, num_images=6)
    drawn = [] if name == "grid.png" else [["A red circle!"] * 2 + ["b"] * 2]
    assert [call["prompts"] for call in again.calls] == drawn
    assert contents(tmp_path) == expected
    for path in tmp_path.glob("0*.png"):
        assert path.name == name or path.stat().st_mtime_ns == untouched[path.name]


def test_a_complete_folder_of_an_earlier_version_stays_as_it_is(tmp_path):
    fill(tmp_path)
    manifest = json.loads((tmp_path / "manifest.json").read_text())
    del manifest["sha256"]
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    before = contents(tmp_path)
    assert fill(tmp_path).calls == [] and contents(tmp_path) == before


NO_JSON = ["", "null", "[" * 100_000, '{"request": {"seed": NaN}}']
NO_MANIFEST = [
    '{"request": {}, "images": 5}',
    '{"request": {}, "images": [{"prompt": "a"}]}',
    '{"request": {}, "images": [{"file": 7}]}',
    '{"request": {}, "files": [[]]}',
    '{"request": {}, "sha256": []}',
]


@pytest.mark.parametrize(
    "name, text",
    [("manifest.json", text) for text in NO_JSON + NO_MANIFEST]
    + [("manifest.partial.json", text) for text in NO_JSON],
)
def test_a_manifest_that_is_none_is_named(tmp_path, name, text):
    (tmp_path / name).write_text(text)
    for attempt in (fill, write):
        with pytest.raises((ValueError, Damaged), match=r"manifest\.") as refused:
            attempt(tmp_path)
        assert "\n" not in str(refused.value) and (tmp_path / name).read_text() == text


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"prompts": ("A red circle!", "c")}, 'prompts is .*"b".* there, .*"c".* here'),
        ({"num_images": 3}, "images_per_prompt is 2 there, 3 here"),
        ({"targets": {"beauty": 0.5}}, "targets has only here: beauty"),
        ({"num_steps": 4}, "num_steps is 3 there, 4 here"),
        ({"negative_prompt": "same"}, 'negative_prompt is "empty" there, "same" here'),
        ({"guidance_rule": "apg"}, 'guidance_rule is "cfg" there, "apg" here'),
        ({"guidance_schedule": "linear"}, 'guidance_schedule is "constant" there, "linear" here'),
    ],
)
@pytest.mark.parametrize("complete", [True, False])
def test_another_request_is_refused_in_one_line(tmp_path, monkeypatch, changes, said, complete):
    if complete:
        fill(tmp_path)
    else:
        with monkeypatch.context() as patch, pytest.raises(Killed):
            kill_at(patch, 3)
            fill(tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=said) as caught:
        fill(tmp_path, **changes)
    assert "\n" not in str(caught.value) and "Name another folder" in str(caught.value)
    assert "sha256" not in str(caught.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize("special", [{"guidance_rule": "apg"}, {"guidance_schedule": "linear"}])
def test_plain_guidance_is_another_request_than_a_special_one(tmp_path, special):
    """A manifest names rule and schedule only where they are not the usual ones."""
    fill(tmp_path, **special)
    with pytest.raises(ValueError, match="belongs to another request: guidance_"):
        fill(tmp_path)
    pipe = Dial()
    _, manifest = write(tmp_path, pipe)
    assert pipe.calls and not special.keys() & manifest["request"].keys()


def test_another_checkpoint_is_refused(tmp_path):
    fill(tmp_path)
    other = Dial()
    other.trained.name = "dial sha256:0000"
    with pytest.raises(
        ValueError, match='checkpoint is "dial sha256:d1a1" there, "dial sha256:0000" here'
    ):
        fill(tmp_path, other)


def test_the_same_weights_in_another_folder_resume(tmp_path):
    fill(tmp_path)
    moved = Dial()
    moved.trained.name = moved.trained.name.replace("dial", "elsewhere/dial")
    before = contents(tmp_path)
    fill(tmp_path, moved)
    assert contents(tmp_path) == before and not moved.calls


@pytest.mark.parametrize("kernels", [("xla", "cudnn"), ("cudnn", "xla"), (None, "cudnn")])
def test_another_kernel_of_attention_is_refused(tmp_path, kernels):
    """A request from before it was written names none, and is of "xla"."""
    pipe = Dial()
    there, pipe.trained.attention = kernels
    first = {"attention": there} if there else {}
    with open_folder(tmp_path, {"checkpoint": "dial sha256:d1a1"} | first, []):
        pass
    check_folder(tmp_path, {"checkpoint": "dial sha256:d1a1"})  # before weights are read
    with pytest.raises(ValueError, match=f'attention is "{there or "xla"}" there, "{kernels[1]}"'):
        check_folder(tmp_path, draw.describe_pipeline(pipe))
    pipe.trained.attention = there or "xla"
    check_folder(tmp_path, draw.describe_pipeline(pipe))


@pytest.mark.parametrize("flag", ["vae", "text_encoder"])
def test_another_decoder_or_text_encoder_is_refused(tmp_path, flag):
    first, other, usual = (
        draw.describe_opened(Dial(), Options(**given))
        for given in ({flag: "mine"}, {flag: "other"}, {})
    )
    with open_folder(tmp_path, first, []):
        pass
    check_folder(tmp_path, first)
    with pytest.raises(ValueError, match=f'{flag} is "mine" there, "other" here'):
        check_folder(tmp_path, other)
    with pytest.raises(ValueError, match=f'{flag} is "mine" there, null here'):
        check_folder(tmp_path, usual)


@pytest.mark.parametrize("name", ["0001-b-0.png", "grid.png"])
def test_pictures_of_the_same_name_that_nothing_explains_are_not_taken_for_ours(tmp_path, name):
    (tmp_path / name).write_bytes(b"whose?")
    with pytest.raises(ValueError, match=f"holds {name}, and nothing there says how"):
        fill(tmp_path)
    assert contents(tmp_path) == {name: b"whose?"}


def test_a_manifest_of_something_else_is_refused(tmp_path):
    (tmp_path / "manifest.json").write_text('{"shards": {}}')
    with pytest.raises(ValueError, match="holds manifest.json, and nothing there says how"):
        fill(tmp_path)


def test_a_folder_that_another_process_fills_is_refused(tmp_path):
    with locked(tmp_path):
        with pytest.raises(BlockingIOError, match="is in use by another process"):
            fill(tmp_path)
    fill(tmp_path)
    assert not (tmp_path / ".lock").exists()


def test_a_folder_that_cannot_be_made_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(OSError, match="file/here must be a folder that can be written"):
        fill(tmp_path / "file" / "here")


def test_the_stage_refuses_a_folder_that_cannot_be_written_before_it_reads_weights(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(sample.stage, "restore", lambda *_: 1 / 0)
    (tmp_path / "images").write_text("a file")
    with pytest.raises(PermissionError, match="images must be a folder that can be written"):
        sample.stage.run(configs.get_config("tiny"), tmp_path)


@pytest.mark.parametrize("count", [1, 3, 5])
def test_a_full_disk_names_the_file_and_the_same_request_resumes(tmp_path, monkeypatch, count):
    fill(tmp_path / "whole", num_images=3)
    written = []

    def full(self, name, data, durable=True):
        path = self.path / name
        written.append(path)
        if len(written) >= count:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(self, name, data, durable)

    real = LocalFolder.write
    with monkeypatch.context() as patch:
        patch.setattr(LocalFolder, "write", full)
        with pytest.raises(OSError, match=r"No space left on device: '.*o/.*\.png'"):
            fill(tmp_path / "o", num_images=3)
    kept = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "o").glob("0*.png")}
    fill(tmp_path / "o", num_images=3)
    assert contents(tmp_path / "o") == contents(tmp_path / "whole")
    assert all((tmp_path / "o" / name).stat().st_mtime_ns == then for name, then in kept.items())
