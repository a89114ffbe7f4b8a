"""What stands beside a run's numbers: found by name or path, and only what may be compared."""

import json

import pytest

from configs import base as configs
from miro_jax.evaluate import beside

RECORD = json.loads((beside.RECORDED / "baseline.json").read_text())[-1]


def restricted(values, keys):
    """`values` with the keys that `keys` has, at all depths: later ones change no old run."""
    if not isinstance(keys, dict):
        return values
    return {key: restricted(values[key], below) for key, below in keys.items()}


def test_the_recorded_baseline_is_that_of_todays_config():
    """Else it must be made again, by the command that stands in it."""
    today = json.loads(configs.get_config("baseline").to_json())
    made = RECORD["config"]
    for part in ("source", "model", "optim", "train", "sample", "evaluate"):
        assert restricted(today[part], made[part]) == made[part], part
    assert RECORD["step"] == today["train"]["num_steps"]
    assert RECORD["command"].endswith("--config=configs/base.py:baseline --workdir=runs/baseline")


def test_a_record_stands_beside_an_evaluation_of_the_same_prompts(tmp_path):
    found = beside.read("baseline", RECORD)
    assert found == {
        "name": "baseline",
        "step": RECORD["step"],
        "geneval": RECORD["results"]["geneval"],
    }
    assert beside.read("", RECORD) is None
    (tmp_path / "evaluation.json").write_text(json.dumps([RECORD | {"step": 7}]))
    for source in (tmp_path, tmp_path / "evaluation.json"):
        assert beside.read(str(source), RECORD)["step"] == 7


@pytest.mark.parametrize("key", ["prompts", "num_steps", "guidance_scale", "images_per_prompt"])
def test_what_was_measured_otherwise_is_left_out(key, caplog):
    entry = json.loads(json.dumps(RECORD))
    if key == "prompts":
        entry["prompts"] |= dict.fromkeys(("sha256", "texts_sha256"), "0" * 64)
    else:
        part = "evaluate" if key == "images_per_prompt" else "sample"
        entry["settings"][part][key] += 1
    assert beside.read("baseline", entry) is None
    name = "list of prompts" if key == "prompts" else key
    assert f"made with another {name}: it is not shown" in caplog.text


def test_a_file_without_an_evaluation_is_refused(tmp_path):
    (tmp_path / "evaluation.json").write_text("[]")
    with pytest.raises(ValueError, match="evaluation.json must hold an evaluation; it holds none"):
        beside.read(str(tmp_path), RECORD)


def test_an_unknown_source_is_refused_with_the_known_ones(tmp_path):
    with pytest.raises(FileNotFoundError, match="or one of baseline; got 'basline'"):
        beside.find("basline")
    with pytest.raises(FileNotFoundError, match="config.evaluate.beside must be"):
        beside.find(str(tmp_path))
