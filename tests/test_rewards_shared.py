"""What rewards share: one prepares, encodes and is given arrays for others, none spoils them."""

import numpy as np
import pytest

from miro_jax import rewards
from miro_jax.rewards import base, own
from miro_jax.rewards.contract import BrokenPromise, check_shared
from miro_jax.rewards.failure import RewardFailed
from miro_jax.score import main as score
from miro_jax.score import score_images
from tests.scoring import Brightness, file_bytes, grey

FILE = '''
import numpy as np

from miro_jax.rewards import base


class Brightness(base.Judge):
    name, version = "brightness", "1"
    tower = preprocessing = "brightness"
    needs_caption, synthetic_form = False, "long"

    def prepare(self, image):
        base.check_image(image)
        return image.mean((0, 1)).astype(np.float32)

    def encode(self, prepared):
        return prepared.mean(1)

    def judge(self, features, captions):
        return features.astype(np.float32)


class Darkness(Brightness):
    """Shares both words, and what they stand for."""

    name = "darkness"

    def judge(self, features, captions):
        return -super().judge(features, captions)


class Contrast(Brightness):
    """Copied, with another `prepare` under the same word."""

    name = "contrast"

    def prepare(self, image):
        return image.std((0, 1)).astype(np.float32)


class Redness(Brightness):
    """Copied, with another `encode` under the same word."""

    name = "redness"

    def encode(self, prepared):
        return prepared[:, 0]


class Asked(Brightness):
    """Says what it needs only once it is built."""

    name, needs_caption = "asked", None

    def __init__(self):
        self.needs_caption = False


class Leaving(Brightness):
    """Ends the process."""

    name = "leaving"

    def __init__(self):
        raise SystemExit(0)
'''


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    return path


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for i in range(3):
        (folder / f"{i}.png").write_bytes(file_bytes(grey(40 * i)))
    return folder


@pytest.mark.parametrize(("name", "word"), [("Contrast", "preprocessing"), ("Redness", "tower")])
def test_two_rewards_of_one_word_must_share_what_it_stands_for(
    file, folder, tmp_path, capsys, name, word
):
    command = [str(folder), f"--rewards={file}:Brightness,{file}:{name}"]
    assert score([*command, f"--out={tmp_path / 'a.csv'}"]) == 2
    said = capsys.readouterr().err
    assert f"brightness and {name.lower()} have the same {word} 'brightness'" in said
    assert f"give {name.lower()} a word of its own" in said
    assert not (tmp_path / "a.csv").exists()


def test_rewards_share_what_is_the_same(file):
    rewards.load_rewards([f"{file}:Brightness", f"{file}:Darkness", "sharpness"])
    check_shared([Brightness(), Brightness("other"), rewards.load_reward("beauty")])
    sized = [Brightness("small"), Brightness("large")]
    sized[0].factor, sized[1].factor = np.ones(2), np.ones(2)
    check_shared(sized)
    other = Brightness("other")
    other.encode = lambda prepared: prepared.mean(axis=1) + 1
    with pytest.raises(BrokenPromise, match="brightness and other have the same tower 'mean'"):
        check_shared([Brightness(), other])


def writing(method):
    """A reward of which a method writes into what it is given."""

    def write(self, given, *captions):
        given *= 0
        return getattr(Brightness, method)(self, given, *captions)

    return type("Writing", (Brightness,), {method: write})("writing")


@pytest.mark.parametrize("method", ["prepare", "encode", "judge"])
def test_a_reward_cannot_write_into_what_others_are_given(method):
    said = rf"writing failed in {method}: ValueError: .*read-only.*Mend Writing.{method}"
    with pytest.raises(RewardFailed, match=said):
        base.score_all([writing(method), Brightness()], [grey(9)], [{"caption": ["a fox"]}])


def test_a_word_of_the_package_stands_for_what_it_does_there():
    class Negative(Brightness):
        preprocessing = "none"  # that of the shapes rewards, which take an image as it is

        def prepare(self, image):
            return 255 - image

    pair = [rewards.load_reward("beauty"), Negative("negative")]
    for some in (pair, pair[::-1]):
        said = "have the same preprocessing 'none'.*give negative a word of its own"
        with pytest.raises(BrokenPromise, match=said):
            check_shared(some)
    Negative.prepare = lambda self, image: image
    check_shared(pair)


def test_a_reward_that_writes_into_captions_changes_them_for_no_other():
    class Writing(Brightness):
        def judge(self, features, captions):
            captions[:] = [""] * len(captions)
            return features

    captions = ["a red circle", "a hen"]
    writing = Writing("writing", needs_caption=True)
    judges = [writing, Brightness("length", needs_caption=True)]
    (scores,) = base.score_all(judges, [grey(0)] * 2, [{"caption": captions}])
    assert (scores[:, 1] * 255).tolist() == pytest.approx([12, 5])
    writing.score([grey(0)] * 2, captions)
    assert captions == ["a red circle", "a hen"]


def test_captions_in_python_may_be_an_array_of_texts():
    reward = Brightness("length", needs_caption=True)
    assert reward.score([grey(0)] * 2, np.array(["a", "bcd"])).tolist() == [1, 3]


def answering(**methods):
    """A reward of which methods answer what they must not."""
    changes = {name: lambda self, *_, made=made: made for name, made in methods.items()}
    return type("Answering", (Brightness,), changes)("answering")


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ({"prepare": 0.5}, "prepare: it must return a numpy array; got float"),
        ({"prepare": None}, "prepare: it must return a numpy array; got NoneType"),
        ({"judge": np.ones(2, complex)}, "judge: it must return real numbers; got complex128"),
        ({"judge": np.ma.masked_less(np.ones(2), 2)}, "judge: .* an array without a mask"),
        ({"stored": np.ones(1, np.float32)}, r"stored: it must return one score .*got \[1\]"),
    ],
)
def test_an_answer_that_is_none_is_named(methods, said):
    with pytest.raises(RewardFailed, match=f"answering failed in {said}"):
        base.score_all([answering(**methods)], [grey(9)] * 2, [{"caption": ["a", "b"]}])


@pytest.mark.parametrize("method", ["prepare", "encode", "judge"])
@pytest.mark.parametrize("raised", [SystemExit(0), StopIteration()])
def test_an_exception_that_python_takes_for_an_end_is_a_failure(method, raised):
    def leave(self, *_):
        raise raised

    reward = type("Leaving", (Brightness,), {method: leave})("leaving")
    said = rf"leaving failed in {method}: {type(raised).__name__}.*Mend Leaving.{method}"
    with pytest.raises(RewardFailed, match=said):
        base.score_all([reward], [grey(9)], [{"caption": ["a fox"]}])


def test_a_file_that_ends_the_process_is_refused(file, folder, tmp_path, capsys):
    leaving = tmp_path / "leaving.py"
    leaving.write_text(f"{FILE}\nimport sys\n\nsys.exit(0)\n")
    for name, said in (
        (f"{file}:Leaving", "Leaving must be a class that can be built; got SystemExit: 0"),
        (f"{leaving}:Brightness", "must be a Python file that can be imported; got SystemExit: 0"),
    ):
        assert score([str(folder), f"--rewards={name}", f"--out={tmp_path / 'a.csv'}"]) == 2
        assert said in capsys.readouterr().err


def test_a_file_that_changes_the_working_directory_moves_no_output(
    file, folder, tmp_path, monkeypatch, capsys
):
    moving, elsewhere = tmp_path / "moving.py", tmp_path / "elsewhere"
    elsewhere.mkdir()
    leave = f"import os\n\nos.chdir({str(elsewhere)!r})\n"
    built = "    def __init__(self):\n        os.chdir('..')\n\n    def judge"
    moving.write_text(leave + FILE.replace("    def judge", built, 1))
    monkeypatch.chdir(tmp_path)
    assert score(["images", "--rewards=moving.py:Brightness", "--out=a.csv"]) == 0
    assert (tmp_path / "a.csv").exists() and not list(elsewhere.iterdir())


def test_the_class_itself_says_whether_it_needs_captions(file, folder, tmp_path, capsys):
    assert own.needs_caption(f"{file}:Brightness") is False
    assert score([str(folder), f"--rewards={file}:Asked", f"--out={tmp_path / 'a.csv'}"]) == 2
    assert "mine.py:Asked must have needs_caption, True or False" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("sharpness", "the one string 'sharpness'"),
        (Brightness(), "list of names or rewards; got <.*Brightness"),
        ([Brightness], r"such as MyReward\(\); got the class Brightness"),
        (["sharpness", None], "got None"),
    ],
)
def test_rewards_from_python_are_names_and_objects(folder, tmp_path, given, said):
    with pytest.raises(TypeError, match=said):
        score_images(folder, given, tmp_path / "a.csv")
    assert not list(tmp_path.glob("a.csv*"))


def test_a_piece_that_is_requested_twice_is_done_once(folder, tmp_path):
    assert score_images(folder, ["sharpness"], tmp_path / "a.csv", pieces=[0, 0]) is not None
