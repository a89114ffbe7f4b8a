"""A reward of the user's own, `FILE.py:Class`, works in every stage of an unchanged package."""

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from miro_jax import load_reward, rewards
from miro_jax import main as entry
from miro_jax.annotate.__main__ import main as annotate
from miro_jax.data.records.manifest import Manifest, same_models
from miro_jax.models import sharding
from miro_jax.rewards import base, contract, own
from miro_jax.rewards.failure import RewardFailed, naming
from miro_jax.rewards.names import is_own, parse_names, short_name
from miro_jax.sample import command as sample
from miro_jax.score import main as score
from miro_jax.score import score_images
from tests import training
from tests.annotating import make_pieces
from tests.networks import small_mesh
from tests.scoring import read_rows

FILE = '''
"""Rewards of one's own."""

import dataclasses

import numpy as np

from miro_jax.rewards import base

GREY = 0.0


@dataclasses.dataclass
class Options:
    """A dataclass, which looks its module up."""

    factor: float = 1.0


class Redness(base.Judge):
    """The share of red; captions do not matter."""

    name, version = "redness", "1"
    tower = preprocessing = "redness"
    needs_caption, synthetic_form = False, "long"

    def prepare(self, image: np.ndarray) -> np.ndarray:
        base.check_image(image)
        return image.mean((0, 1), dtype=np.float64)

    def encode(self, prepared: np.ndarray) -> np.ndarray:
        return prepared[:, 0] / np.maximum(prepared.sum(1), 1) * Options().factor

    def judge(self, features: np.ndarray, captions: list[str]) -> np.ndarray:
        base.check_captions(captions, len(features))
        return features.astype(np.float32)


class Weighted(Redness):
    """With weights, read from a file."""

    name = "weighted"

    def __init__(self, weights: str = "none"):
        self.weights = weights


class Short(Redness):
    """One score for however many images."""

    name = "short"

    def judge(self, features, captions):
        return super().judge(features, captions)[:1]


class OtherName(Redness):
    """Its name is not that of the class."""


class Nameless(Redness):
    name = version = None


class Raising(Redness):
    """Fails at what one of its methods is given, where `fails` names it."""

    name, fails = "raising", "judge"

    def prepare(self, image):
        return super().prepare(image)[: {}["red"] if self.fails == "prepare" else None]

    def encode(self, prepared):
        return super().encode(prepared[: {}["red"] if self.fails == "encode" else None])

    def judge(self, features, captions):
        return super().judge(features, captions[: {}["red"] if self.fails == "judge" else None])

    def stored(self, score):
        return ["red"] * len(score) if self.fails == "stored" else score


class Unbuilt(Redness):
    """Cannot be built."""

    name = "unbuilt"

    def __init__(self):
        {}["red"]


class Half(base.Judge):
    """No reward: two methods are missing."""

    def prepare(self, image):
        return image
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


def test_names_of_files_and_groups():
    assert parse_names("all,beauty") == (*rewards.PUBLISHED_REWARDS, "beauty")
    assert parse_names(["shapes", "a/b.py:ImageRedness"]) == (
        *rewards.SHAPES_REWARDS,
        "a/b.py:ImageRedness",
    )
    assert short_name("a/b.py:ImageRedness") == "image_redness"
    assert short_name("a/b.py:HPSv3") == "hpsv3"
    assert short_name("hpsv2@2.1") == "hpsv2"
    assert is_own("x:y/b.py:A") and short_name("x:y/b.py:A") == "a"
    assert not is_own("process:python b.py") and not is_own("process:b.py:A")
    assert is_own("b.py:A") and is_own("b.py") and not is_own("vqa@clip-flant5-xl")


def test_a_class_of_a_file_is_a_reward_that_keeps_its_promises(file):
    name = f"{file}:Redness"
    reward = load_reward(name)
    assert reward.identity == f"redness@1-{own.digest(name)}"
    contract.check_reward(reward)
    assert own.load_class(name) is own.load_class(name)
    assert rewards.label(name) == reward.identity and not rewards.has_weights(name)
    assert not rewards.card_of(name) and "unknown" in rewards.why_not_commercial(name)
    red = np.zeros((8, 8, 3), np.uint8) + np.array([9, 0, 0], np.uint8)
    assert reward.score([red]).tolist() == [1.0]


def test_another_number_of_scores_than_images_is_refused(file, tmp_path, capsys):
    image = np.zeros((32, 32, 3), np.uint8)
    said = r"The reward short failed in judge: it must return one score for each of the images"
    reward = rewards.load_reward(f"{file}:Short")
    with pytest.raises(ValueError, match=r"judge must return \[\d+\] float32; got \[1\]"):
        contract.check_reward(reward)
    with pytest.raises(RewardFailed, match=rf"{said}.* \[3\], .*got \[1\].*Mend Short.judge"):
        base.score_all([reward], [image] * 3, [{"caption": ["a"] * 3}])
    with pytest.raises(RewardFailed, match=rf"{said}.* \[3\], .*got \[1\].*Mend Short.judge"):
        reward.score([image] * 3)
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        Image.fromarray(image).save(folder / f"{i}.png")
    with pytest.raises(RewardFailed, match=said):
        score_images(folder, [reward], tmp_path / "a.csv")
    assert not (tmp_path / "a.csv").exists()
    assert score([str(folder), f"--rewards={file}:Short", f"--out={tmp_path / 'b.csv'}"]) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    assert "filled up with repeated images); got [1]; images: 0.png to 2.png (3). Mend" in line


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for name in "abc":
        Image.fromarray(np.zeros((32, 32, 3), np.uint8)).save(folder / f"{name}.png")
        (folder / f"{name}.txt").write_text("a fox")
    return folder


@pytest.mark.parametrize("method", ["prepare", "encode", "judge", "stored"])
def test_a_reward_that_raises_is_named_with_its_images_and_the_line(file, method):
    reward = load_reward(f"{file}:Raising")
    reward.fails = method
    images = [np.zeros((8, 8, 3), np.uint8)] * 3
    with pytest.raises(RewardFailed) as failed:
        base.score_all([reward], images, [{"caption": ["a fox", "a hen", ""]}])
    several = "images[0] 'a fox'" + ("" if method == "prepare" else " to images[2] (3)")
    cause = "ValueError: could not" if method == "stored" else "KeyError: 'red' (mine.py, line "
    said = str(failed.value)
    assert said.startswith(f"The reward raising failed in {method}: {cause}")
    assert said.endswith(f"; images: {several}. Mend Raising.{method}.")
    assert isinstance(failed.value.__cause__, ValueError if method == "stored" else KeyError)
    if method != "stored":  # which is of records
        with pytest.raises(RewardFailed, match=rf"failed in {method}: KeyError.*images\[0\]"):
            reward.score(images)


@pytest.mark.parametrize("method", ["prepare", "judge"])
def test_a_command_says_in_one_line_which_reward_failed_on_which_files(
    file, folder, tmp_path, capsys, monkeypatch, method
):
    file.write_text(FILE.replace('fails = "raising", "judge"', f'fails = "raising", "{method}"'))
    command = [str(folder), f"--rewards={file}:Raising", f"--out={tmp_path / 'a.csv'}"]
    assert score(command) == 1
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "error" in line]
    keys = "a.png" if method == "prepare" else "a.png to c.png (3)"
    assert line.startswith("miro-jax score: error: The reward raising failed in") and keys in line
    assert line.endswith("MIRO_JAX_TRACEBACK=1 shows the traceback.")
    monkeypatch.setenv("MIRO_JAX_TRACEBACK", "1")
    assert score(command) == 1
    said = capsys.readouterr().err
    assert "Traceback (most recent call last)" in said and f"in {method}\n" in said
    file.write_text(FILE.replace('name, fails = "raising", "judge"', 'name, fails = "raising", ""'))
    assert score(command) == 2  # the mended file is another reward
    unfinished = tmp_path / "a.csv.parts"
    assert f"Give another --out, or delete {unfinished}." in capsys.readouterr().err
    shutil.rmtree(unfinished)
    assert score(command) == 0, capsys.readouterr().err


def test_a_reward_that_cannot_be_built_is_named(file):
    with pytest.raises(ValueError, match=r"mine.py:Unbuilt must be .* built; got KeyError: 'red'"):
        load_reward(f"{file}:Unbuilt")


def test_a_folder_of_a_file_may_have_a_colon_in_its_name(file):
    folder = file.parent / "a:b"
    folder.mkdir()
    name = shutil.copy(file, folder / "mine.py")
    assert load_reward(f"{name}:Redness").identity == load_reward(f"{file}:Redness").identity


def test_a_changed_file_is_another_reward(file):
    name = f"{file}:Redness"
    before = load_reward(name)
    file.write_text(FILE.replace("factor: float = 1.0", "factor: float = 2.0"))
    after = load_reward(name)
    assert before.identity != after.identity
    grey = np.full((8, 8, 3), 100, np.uint8)
    assert after.score(grey) == 2 * before.score(grey)


def test_weights_of_a_class_are_given_to_it(file):
    name = f"{file}:Weighted"
    (reward,) = rewards.load_rewards([name], weights={name: "folder"})
    assert reward.weights == "folder"
    assert rewards.has_weights(name) and same_models([reward.identity], [rewards.label(name)])


@pytest.mark.parametrize(
    ("text", "error", "said"),
    [
        ("{file}", ValueError, "FILE.py:Class.*mine.py has Redness, Weighted"),
        ("{file}:Rednes", ValueError, "got .*Rednes'.*mine.py has Redness"),
        ("{file}:Options", ValueError, "Options of .*mine.py must have the methods prepare, enc"),
        ("{file}:Half", ValueError, "Half of .*mine.py must have the methods encode, judge"),
        ("{file}2.py:Redness", FileNotFoundError, "mine.py2.py, the file of a reward"),
        ("{broken}:Redness", ValueError, "broken.py must be a Python file.*got ZeroDivisionError"),
    ],
)
def test_what_is_no_reward_is_refused_by_file_and_class(file, text, error, said):
    (file.parent / "broken.py").write_text("1 / 0")
    name = text.format(file=file, broken=file.parent / "broken.py")
    with pytest.raises(error, match=said):
        rewards.check_names([name])


def test_a_missing_file_by_a_relative_path_says_what_the_path_counts_from():
    with pytest.raises(FileNotFoundError, match="mine.py.* counts from the folder you start in"):
        rewards.check_names(["mine.py:Redness"])


def test_a_class_whose_attributes_are_wrong_is_refused(file):
    with pytest.raises(ValueError, match="OtherName: the attribute name must be 'other_name'.*got"):
        load_reward(f"{file}:OtherName")
    with pytest.raises(ValueError, match="Nameless: the attribute name must be 'nameless'"):
        load_reward(f"{file}:Nameless")
    with pytest.raises(ValueError, match="must differ"):
        (file.parent / "other.py").write_text(FILE)
        rewards.check_names([f"{file}:Redness", f"{file.parent / 'other.py'}:Redness"])


@pytest.mark.slow
def test_it_goes_through_every_stage(file, tmp_path, monkeypatch, capsys, no_flush):
    """Annotated, conditioned on, asked for by its short name, evaluated and scored."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sharding, "make_mesh", lambda *_: small_mesh())
    names = ("beauty", "mine.py:Redness")
    changes = training.SMALL | {
        "rewards": names,
        "data.train_rewards": names,
        "source.shapes.num_images": 64,
        "source.shapes.images_per_shard": 64,
        "annotate.num_bins": 8,
        "train.sample_every_steps": 0,
        "train.num_steps": 6,
        "sample.prompts": ("a red circle", "a square"),
        "sample.targets": "redness=0.8",
        "evaluate.evaluators": ("reward_scores", "dials"),
        "evaluate.levels": (0.0, 1.0),
    }
    arguments = [training.TINY, "--workdir=run"]
    arguments += [f"--config.{key}={value}" for key, value in changes.items()]
    for stage in ("annotate", "train", "sample", "evaluate"):
        status = entry.main([*arguments, f"--stage={stage}"])
        assert status == 0, capsys.readouterr().err
    identity = load_reward(names[1]).identity
    assert Manifest.load("run/records").rewards == ("beauty@shapes1", identity)
    (evaluation,) = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert evaluation["rewards"] == ["beauty@shapes1", identity]
    assert set(evaluation["results"]["dials"]["dials"]) == {"beauty", "redness"}

    flags = ["--rewards=mine.py:Redness,sharpness", "--out=scores.jsonl"]
    assert score(["run/images", *flags]) == 0
    assert {identity, "sharpness@shapes1"} <= set(read_rows(tmp_path / "scores.jsonl")[0])

    file.unlink()  # a trained network needs it no more
    flags = ["--prompt=a square", "--target", "redness=0.8", "--steps=2", "--out=images"]
    assert sample.main(["--checkpoint=run", *flags]) == 0, capsys.readouterr().err
    manifest = json.loads((tmp_path / "images/manifest.json").read_text())
    assert "redness" in json.dumps(manifest)


@pytest.mark.parametrize("verb", ["score", "annotate"])
def test_workers_and_their_merge_may_name_the_file_by_different_paths(
    file, tmp_path, monkeypatch, capsys, no_flush, verb
):
    monkeypatch.chdir(tmp_path)
    make_pieces(tmp_path / "in", 3, 2)
    command, flags = {
        "score": (score, ["tar:in/*.tar", "--out=a.csv"]),
        "annotate": (annotate, ["--source=tar:in/*.tar", "--out=records", "--num-bins=2"]),
    }[verb]
    for path, share in (("mine.py", "--pieces=0,1"), (file, "--piece=2"), (file, "--merge")):
        status = command([*flags, f"--rewards={path}:Redness", share])
        assert status == 0, capsys.readouterr().err
    assert {"score": "a.csv\n", "annotate": "6 records"}[verb] in capsys.readouterr().out


def test_images_that_are_named_keep_their_names():
    with pytest.raises(RewardFailed, match="images: a$"), naming(["b", "c"]), naming(["a"]):
        raise RewardFailed("It failed")
    with pytest.raises(RewardFailed, match=r"images: b to d \(3\)$"), naming(["b", "c", "d"]):
        raise RewardFailed("It failed")
