"""Plots of sampled images: isolation, trade-offs, progression, and their tables of scores."""

import itertools
import json
from pathlib import Path

import pytest
from PIL import Image

from miro_jax.evaluate.plots.command import main


@pytest.fixture
def sampled(tmp_path):
    """Folders as `miro-jax sample` writes them, and a table of scores of each."""
    rewards = ("aesthetic", "clip", "hpsv2")

    def make(name, negatives):
        folder, images, scores = tmp_path / name, [], []
        folder.mkdir()
        for prompt, (number, negative) in itertools.product("ab", enumerate(negatives)):
            file = f"{prompt}-{number}.png"
            Image.new("RGB", (8, 8), (20 * number, 0, 0)).save(folder / file)
            entry = {"file": file, "prompt": prompt, "seed": 1, "guidance_scale": 7.0}
            levels = {"targets": dict.fromkeys(rewards, 1.0), "negative_targets": negative}
            images.append(entry | levels)
            scores.append({"key": file, "clip@1": negative["clip"] + (prompt == "a")})
        (folder / "manifest.json").write_text(json.dumps({"images": images}))
        table = folder / "scores.jsonl"
        table.write_text("".join(json.dumps(row) + "\n" for row in scores))
        return str(folder)

    return make


def test_a_tradeoff_draws_its_images_and_curves(sampled, tmp_path, capsys):
    path = sampled("t", [{"aesthetic": u, "clip": 1 - u, "hpsv2": 1.0} for u in (0, 0.5, 1)])
    out = tmp_path / "t.svg"
    words = ["tradeoff", path, f"--scores={path}/scores.jsonl", f"--out={out}"]
    assert main(words) == 0, capsys.readouterr().err
    numbers = json.loads(out.with_suffix(".json").read_text())["numbers"]
    assert numbers["rewards"] == ["aesthetic", "clip"]
    assert numbers["rank correlation with u"] == {"clip@1": -1.0}
    svg = out.read_text()
    assert svg.count("<image ") == svg.count("image-rendering: pixelated") == 6  # of 8 x 8 pixels
    assert "u = 0.5" in svg and str(tmp_path) not in svg


def test_further_images_of_a_prompt_are_no_further_prompts(sampled, tmp_path):
    path = sampled("t", [{"aesthetic": u, "clip": 1 - u, "hpsv2": 1.0} for u in (0, 0.5, 1)])

    def points():
        out = tmp_path / "t.svg"
        assert main(["tradeoff", path, f"--scores={path}/scores.jsonl", f"--out={out}"]) == 0
        return json.loads(out.with_suffix(".json").read_text())["points"]

    once = points()
    table, made = (
        Path(path) / "scores.jsonl",
        json.loads((Path(path) / "manifest.json").read_text()),
    )
    lines = table.read_text()
    for n in range(5):
        made["images"] += [{**one, "file": f"{n}{one['file']}"} for one in made["images"][:6]]
        table.write_text(table.read_text() + lines.replace('"key": "', f'"key": "{n}'))
    (Path(path) / "manifest.json").write_text(json.dumps(made))
    assert points() == once and once[0]["low"] < once[0]["high"]


def test_a_prompt_that_lacks_a_column_of_a_tradeoff_is_named(sampled, tmp_path, capsys):
    path = sampled("t", [{"aesthetic": u, "clip": 1 - u, "hpsv2": 1.0} for u in (0, 0.5, 1)])
    manifest = Path(path) / "manifest.json"
    manifest.write_text(json.dumps({"images": json.loads(manifest.read_text())["images"][:-1]}))
    words = ["tradeoff", path, f"--scores={path}/scores.jsonl", f"--out={tmp_path / 't.svg'}"]
    assert main(words) == 2
    assert "an image of each prompt at each u; 'b' lacks some" in capsys.readouterr().err


def test_isolation_has_a_column_a_reward(sampled, tmp_path):
    ones = dict.fromkeys(("aesthetic", "clip", "hpsv2"), 1.0)
    path = sampled("i", [ones | {name: 0.0} for name in ones] + [dict.fromkeys(ones, 0.0)])
    out = tmp_path / "i.svg"
    assert main(["isolation", path, f"--scores={path}/scores.jsonl", f"--out={out}"]) == 0
    found = json.loads(out.with_suffix(".json").read_text())["numbers"]["mean scores by column"]
    expected = {"aesthetic": 1.5, "clip": 0.5, "hpsv2": 1.5, "all together": 0.5}
    assert found == {"clip@1": expected}
    assert main(["tradeoff", path, f"--out={out}"]) == 2  # a mistake of the caller


def test_the_column_without_guidance_is_not_that_of_all_rewards_together(sampled, tmp_path):
    ones = dict.fromkeys(("aesthetic", "clip", "hpsv2"), 1.0)
    zeros = dict.fromkeys(ones, 0.0)
    path = Path(sampled("i", [zeros, *(ones | {name: 0.0} for name in ones), zeros]))
    made = json.loads((path / "manifest.json").read_text())
    free = [image for image in made["images"] if image["file"] in ("a-0.png", "b-0.png")]
    for image in free:
        image["guidance_scale"] = 0.0
    (path / "manifest.json").write_text(json.dumps(made))
    rows = [json.loads(line) for line in (path / "scores.jsonl").read_text().splitlines()]
    rows = [row | {"clip@1": 9.0} if row["key"] in ("a-0.png", "b-0.png") else row for row in rows]
    (path / "scores.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "i.svg"
    assert main(["isolation", str(path), f"--scores={path}/scores.jsonl", f"--out={out}"]) == 0
    found = json.loads(out.with_suffix(".json").read_text())["numbers"]["mean scores by column"]
    expected = {"no guidance": 9.0, "aesthetic": 1.5, "clip": 0.5, "hpsv2": 1.5}
    assert found == {"clip@1": expected | {"all together": 0.5}}
    assert out.read_text().count("<image ") == 10


def test_progression_has_a_column_a_checkpoint(sampled, tmp_path, capsys):
    ones = dict.fromkeys(("aesthetic", "clip", "hpsv2"), 0.0)
    words = [f"{step}={sampled(str(step), [ones])}" for step in (10, 20)]
    assert main(["progression", *words, f"--out={tmp_path / 'p.svg'}"]) == 0
    assert (tmp_path / "p.svg").read_text().count("<image ") == 4
    assert main(["progression", words[0], f"--out={tmp_path / 'p.svg'}"]) == 2
    assert "two or more folders" in capsys.readouterr().err


def test_progression_warns_of_other_noise_and_not_of_seeds_of_the_prompts_own(sampled, tmp_path):
    ones = dict.fromkeys(("aesthetic", "clip", "hpsv2"), 0.0)
    paths, out = [sampled(str(step), [ones]) for step in (10, 20)], tmp_path / "p.svg"

    def warnings(*seeds_of_b):
        for path, seed in zip(paths, seeds_of_b, strict=True):
            made = json.loads((file := Path(path) / "manifest.json").read_text())
            made["images"][1]["seed"] = seed
            file.write_text(json.dumps(made))
        assert main(["progression", *paths, f"--out={out}"]) == 0
        return json.loads(out.with_suffix(".json").read_text())["warnings"]

    assert warnings(2, 2) == []
    assert "differ in seed" in warnings(2, 3)[0]


def test_a_csv_of_scores_is_read_whatever_ends_a_line_in_its_captions(sampled, tmp_path):
    ones = dict.fromkeys(("aesthetic", "clip", "hpsv2"), 1.0)
    path, table = sampled("i", [ones | {"clip": 0.0}]), tmp_path / "scores.csv"
    rows = ["key,caption,clip@1", "a-0.png,one\u2028two\x85three,1.5", 'b-0.png,"x\ny",0.5']
    table.write_text("\n".join(rows) + "\n", "utf-8")
    out = tmp_path / "i.svg"
    assert main(["isolation", path, f"--scores={table}", f"--out={out}"]) == 0
    found = json.loads(out.with_suffix(".json").read_text())["numbers"]["mean scores by column"]
    assert found == {"clip@1": {"clip": 1.0}}


def test_images_without_guidance_by_one_reward_are_no_isolation(sampled, tmp_path, capsys):
    path = sampled("i", [dict.fromkeys(("aesthetic", "clip", "hpsv2"), 0.0)])
    assert main(["isolation", path, f"--out={tmp_path / 'i.svg'}"]) == 2
    assert "isolation needs the folder of `miro-jax sample isolate`" in capsys.readouterr().err
    assert not (tmp_path / "i.svg").exists()
