"""The pages on rewards: every published reward has a card that is true, and the example runs."""

import json
import pathlib
import re

import pytest

from miro_jax import annotate, score
from miro_jax.data.records.manifest import Manifest
from miro_jax.rewards import CARDS, load_reward
from miro_jax.rewards.names import NEWER_REWARDS, PUBLISHED_REWARDS, VERSIONED_REWARDS
from tests import reward_tables
from tests.scoring import make_folder, read_rows

PUBLISHED = (*PUBLISHED_REWARDS, *NEWER_REWARDS)
DOCS = pathlib.Path(__file__).parent.parent / "docs"


def sections():
    """The sections of docs/rewards.md by heading."""
    parts = re.split(r"^## (.*)\n", (DOCS / "rewards.md").read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_reward_has_a_section(name):
    for part in ("Measures", "Weights", "Image"):
        assert f"**{part}" in sections()[name], f"{name} lacks {part}"


def test_the_tables_are_those_of_the_cards():
    text = (DOCS / "rewards.md").read_text("utf-8")
    assert text == reward_tables.rewritten(text), f"rewrite them by {reward_tables.COMMAND}"


def test_every_published_reward_and_every_version_has_a_card():
    assert list(dict.fromkeys(card.name for card in CARDS.values())) == list(PUBLISHED)
    published = {n for n in VERSIONED_REWARDS if n.partition("@")[0] in PUBLISHED}
    assert published <= set(CARDS)
    for identity, card in CARDS.items():
        assert (
            identity == card.identity and f"[`{identity}`](#{card.name})" in reward_tables.scores()
        )
        assert all(licence.name in reward_tables.scores() for licence in card.licences)


def test_nothing_is_left_open():
    text = (DOCS / "rewards.md").read_text("utf-8")
    assert not re.search(r"PARITY|not measured yet|TODO", text)


def test_the_example_of_a_reward_runs_as_it_stands(tmp_path, monkeypatch, no_flush):
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "photos", 5)
    text = (DOCS / "add_a_reward.md").read_text("utf-8")
    *blocks, program = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3 and "miro_scorer" in program  # test_rewards_process.py runs that one
    (tmp_path / "my_rewards.py").write_text(blocks[0])
    values = {}
    for block in blocks:
        exec(compile(block, "docs/add_a_reward.md", "exec"), values)
    assert list(values["summary"]["rewards"]) == ["colorfulness@1", "sharpness@shapes1"]
    rows = read_rows(tmp_path / "scores.parquet")
    assert [row["colorfulness@1"] for row in rows] == [0.0] * 5  # grey images
    assert json.loads((tmp_path / "scores.parquet.summary.json").read_text())["num_scored"] == 5

    (tmp_path / "photos" / "captions.csv").write_text(
        "path,caption\n" + "".join(f"{row['key']},grey\n" for row in rows)
    )
    name = "my_rewards.py:Colorfulness"
    identity = load_reward(name).identity
    assert score.main(["photos", f"--rewards={name}", "--out=named.parquet"]) == 0
    assert read_rows(tmp_path / "named.parquet")[0][identity] == 0.0
    source = "--source=folder:photos?captions=photos/captions.csv"
    assert annotate.main([source, f"--rewards={name},beauty", "--out=records"]) == 0
    assert Manifest.load("records").rewards == (identity, "beauty@shapes1")


def test_records_store_scores_on_the_scale_of_the_release():
    """(score + offset) / divisor: records of other scales could not be mixed with them."""
    scales = {
        "clip@jina-clip-v2": (0, 100),
        "aesthetic@1": (0, 10),
        "image_reward@1.0": (2, 4),
        "pick_score@1": (0, 100),
        "hpsv2@2.1": (0, 1),
        "hpsv2@2.0": (0, 1),
        "vqa@clip-flant5-xxl": (0, 1),
        "vqa@clip-flant5-xl": (0, 1),
        "sci_score@1": (0, 100),
        "openai_clip@1": (0, 100),
        "ict@1": (0, 1),
        "hp@1": (0, 1),
        "cycle_reward@combo": (0, 1),
        "cycle_reward@t2i": (0, 1),
        "cycle_reward@i2t": (0, 1),
    }
    assert scales == {k: (c.stored_offset, c.stored_divisor) for k, c in CARDS.items()}
