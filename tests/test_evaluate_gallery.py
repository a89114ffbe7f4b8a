"""The gallery: pictures of each prompt at each level, as files."""

import jax
import numpy as np
from PIL import Image

from miro_jax.evaluate import gallery
from tests.painting import SAMPLING, Meter


def test_files_hold_the_pictures_of_their_prompt_and_level(tmp_path):
    pipeline = Meter(("first", "second"))
    found = gallery.Evaluator(SAMPLING, ["a", "b"], 3, (0.0, 1.0), tmp_path / "new").run(pipeline)
    assert found.files == [
        ["gallery-0-0.png", "gallery-0-1.png"],
        ["gallery-1-0.png", "gallery-1-1.png"],
    ]
    for row in found.files:
        for name, level in zip(row, (0, 255), strict=True):
            picture = np.asarray(Image.open(tmp_path / "new" / name))
            assert picture.shape == (5, 17, 4)  # two lines of two pictures of 2 x 8, gaps of one
            shown = picture[picture[..., 3] == 255][:, :3]
            assert len(shown) == 3 * 2 * 8 and (shown == level).all()
    assert [c["targets"] for c in pipeline.calls] == [
        {"first": 0.0, "second": 0.0},
        {"first": 1.0, "second": 1.0},
    ]


def test_a_network_without_rewards_has_one_column_and_no_levels(tmp_path):
    def plain(prompts, num_images, **_):
        return np.zeros((len(prompts) * num_images, 4, 4, 3), np.uint8)

    plain.reward_names = ()
    found = gallery.Evaluator(SAMPLING, ["a"], 1, (0.0, 1.0), tmp_path).run(plain)
    assert found.levels == [] and found.files == [["gallery-0-0.png"]]


def test_of_several_processes_the_first_one_alone_writes(tmp_path, monkeypatch):
    def run(folder):
        return gallery.Evaluator(SAMPLING, ["a"], 1, (0.0, 1.0), folder).run(Meter(("first",)))

    written = run(tmp_path / "first")
    monkeypatch.setattr(jax, "process_index", lambda: 1)
    assert run(tmp_path / "second") == written and not (tmp_path / "second").exists()
