"""The pages on rewards: every published reward has a card that is true, and the example runs."""

import json
import pathlib
import re

import pytest

from miro_jax import annotate, score
from miro_jax.data.records.manifest import Manifest
from miro_jax.rewards import (
    REWARDS,
    SHAPES_REWARDS,
    VERSIONS,
    aesthetic,
    hpsv2,
    image_reward,
    licences,
    openai_clip,
    pick_score,
    sci_score,
    vqa,
)
from miro_jax.rewards import clip as jina
from tests.scoring import make_folder, read_rows

DOCS = pathlib.Path(__file__).parent.parent / "docs"
PUBLISHED = [name for name in REWARDS if name not in SHAPES_REWARDS]
WEIGHTS = {
    "clip": (jina.WEIGHTS,),
    "aesthetic": (aesthetic.WEIGHTS, aesthetic.HEAD_FILE),
    "image_reward": (image_reward.WEIGHTS, image_reward.TOKENIZER),
    "pick_score": (pick_score.WEIGHTS,),
    "hpsv2": (hpsv2.WEIGHTS, *hpsv2.FILES.values()),
    "vqa": tuple(vqa.WEIGHTS.format(variant) for variant in vqa.VARIANTS),
    "sci_score": (sci_score.WEIGHTS,),
    "openai_clip": (openai_clip.WEIGHTS,),
}


def cards():
    """The sections of docs/rewards.md by heading."""
    parts = re.split(r"^## (.*)\n", (DOCS / "rewards.md").read_text("utf-8"), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def table():
    """The rows of the table at the top of docs/rewards.md, by identity."""
    text = (DOCS / "rewards.md").read_text("utf-8").partition("\n## ")[0]
    rows = [line for line in text.splitlines() if line.startswith("| [`")]
    return {re.match(r"\| \[`([^`]*)`\]\(#(\w+)\)", row)[1]: row for row in rows}


@pytest.mark.parametrize("name", PUBLISHED)
def test_every_published_reward_has_a_card_with_its_weights_and_licence(name):
    card = cards()[name]
    for part in ("Measures", "Scale", "Weights", "Picture", "Cost", "Parity"):
        assert f"**{part}" in card, f"{name} lacks {part}"
    for weights in WEIGHTS[name]:
        assert weights in card
    for licence in licences.LICENCES[name]:
        assert licence.name.lower() in card.lower()


def test_the_table_has_a_row_for_every_identity():
    rows = table()
    assert {identity.partition("@")[0] for identity in rows} == set(PUBLISHED)
    assert set(VERSIONS) <= set(rows)
    for identity, row in rows.items():
        name = identity.partition("@")[0]
        assert f"(#{name})" in row
        assert any(licence.name in row for licence in licences.LICENCES[name])


def test_nothing_is_left_open():
    text = (DOCS / "rewards.md").read_text("utf-8")
    assert not re.search(r"PARITY|not measured yet|TODO", text)


def test_the_example_of_a_reward_runs_as_it_stands(tmp_path, monkeypatch, no_flush):
    monkeypatch.chdir(tmp_path)
    make_folder(tmp_path / "photos", 5)
    text = (DOCS / "add_a_reward.md").read_text("utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len(blocks) == 3
    values = {}
    for block in blocks:
        exec(compile(block, "docs/add_a_reward.md", "exec"), values)
    assert list(values["summary"]["rewards"]) == ["colorfulness@1", "sharpness@shapes1"]
    rows = read_rows(tmp_path / "scores.parquet")
    assert [row["colorfulness@1"] for row in rows] == [0.0] * 5  # grey pictures
    assert json.loads((tmp_path / "scores.parquet.summary.json").read_text())["num_scored"] == 5

    monkeypatch.setitem(REWARDS, "colorfulness", values["Colorfulness"])  # the line in the table
    (tmp_path / "photos" / "captions.csv").write_text(
        "path,caption\n" + "".join(f"{row['key']},grey\n" for row in rows)
    )
    assert score.main(["photos", "--rewards=colorfulness", "--out=named.parquet"]) == 0
    assert read_rows(tmp_path / "named.parquet")[0]["colorfulness@1"] == 0.0
    source = "--source=folder:photos?captions=photos/captions.csv"
    assert annotate.main([source, "--rewards=colorfulness,beauty", "--out=records"]) == 0
    assert Manifest.load("records").rewards == ("colorfulness@1", "beauty@shapes1")
