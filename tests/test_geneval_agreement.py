"""How far two judges of GenEval agree."""

import json

import numpy as np
import pytest

from miro_jax.__main__ import main
from miro_jax.evaluate.suites.geneval import agreement, prompts


def row(number, correct, tag="colors", rule="color", **more):
    reasons = [] if correct else [{"clause": 0, "class": "dog", "rule": rule}]
    key, sample = f"{number // 4:05d}", number % 4
    made = {"key": key, "sample": sample, "tag": tag, "correct": correct, "reasons": reasons}
    return made | {"sha256": f"{number:064x}"} | more


def write(path, rows):
    path.write_text("".join(json.dumps(one) + "\n" for one in rows))
    return str(path)


def test_kappa_is_cohens():
    assert agreement.kappa(20, 5, 10, 15) == pytest.approx(0.4)  # a table of every textbook
    assert agreement.kappa(10, 0, 0, 10) == 1
    assert agreement.kappa(25, 25, 25, 25) == 0
    assert agreement.kappa(0, 5, 5, 0) == -1
    assert agreement.kappa(7, 0, 0, 0) is None


def test_counts_flips_and_margins_are_by_tag():
    first = [row(n, n < 6) for n in range(8)] + [row(n, True, "position") for n in range(8, 12)]
    second = [
        *(row(n, n < 4, rule="detection" if n == 4 else "color") for n in range(8)),
        *(row(n, n != 9, "position", "position", margins={"score": 0.004}) for n in range(8, 12)),
    ]
    found = agreement.compare(first, second[::-1])
    colors, position = found["tags"]["colors"], found["tags"]["position"]
    assert [colors[n] for n in ("images", "both", "first", "second", "neither")] == [8, 4, 2, 0, 2]
    assert colors["agreement"]["value"] == 0.75 and colors["kappa"] == pytest.approx(0.5)
    assert colors["flips"] == {"detection": 1, "color": 1} and colors["near"] == 0
    assert position["flips"] == {"position": 1} and position["near"] == 1
    (line,) = [text for text in agreement.lines(found) if text.startswith("position")]
    assert line.split()[-3:] == ["0.750", "-", "0.000"]  # of one prompt: no interval over prompts
    whole = found["overall"]
    assert whole["images"] == 12 and whole["agreement"]["value"] == 0.75
    assert whole["agreement"]["low"] <= 0.75 <= whole["agreement"]["high"]
    turned = agreement.compare(second, first)["overall"]
    assert (turned["first"], turned["second"]) == (whole["second"], whole["first"])
    assert turned["kappa"] == pytest.approx(whole["kappa"])


def test_the_interval_is_over_prompts_and_not_over_images():
    rng = np.random.default_rng(0)
    flips = np.repeat(rng.random(50) < 0.3, 4)  # all four images of a prompt flip together
    first = [row(n, True) for n in range(200)]
    second = [row(n, not flip) for n, flip in enumerate(flips)]
    share = agreement.compare(first, second)["overall"]["agreement"]
    naive = 2 * 1.96 * np.sqrt(share["value"] * (1 - share["value"]) / 200)
    assert share["high"] - share["low"] > 1.6 * naive


def test_other_images_are_refused():
    rows = [row(n, True) for n in range(4)]
    with pytest.raises(ValueError, match=r"1 are in one alone, such as 00000/3 in the first"):
        agreement.compare(rows, rows[:3])
    with pytest.raises(ValueError, match=r"00000/2 is another file"):
        agreement.compare(rows, [*rows[:2], rows[2] | {"sha256": "f" * 64}, rows[3]])
    with pytest.raises(ValueError, match=r"has the tags colors, position"):
        agreement.compare(rows, [*rows[:3], rows[3] | {"tag": "position"}])


def test_verdicts_of_the_original_tool_are_compared_with_ours(tmp_path, capsys):
    told = [
        {"filename": f"{n:05d}/samples/0000.png", "prompt": one.text, "correct": n > 0}
        for n, one in enumerate(prompts.prompts())
    ]
    results, out = write(tmp_path / "results.jsonl", told), str(tmp_path / "theirs")
    words = [results, "--suite=geneval", "--images-per-prompt=1", f"--out={out}"]
    assert main(["import", *words]) == 0
    ours = [row(4 * n, n > 1, one.tag) for n, one in enumerate(prompts.prompts())]
    capsys.readouterr()
    words = [write(tmp_path / "ours.jsonl", ours), out, "--format=json"]
    assert main(["agreement", *words]) == 0
    whole = json.loads(capsys.readouterr().out)["overall"]
    counts = [whole[name] for name in ("both", "first", "second", "neither")]
    assert counts == [551, 0, 1, 1]


def test_the_command_prints_a_table_and_names_a_bad_line(tmp_path, capsys):
    a = write(tmp_path / "a.jsonl", [row(n, n < 3) for n in range(4)])
    b = write(tmp_path / "images.jsonl", [row(n, n < 2) for n in range(4)])
    assert main(["agreement", a, str(tmp_path)]) == 0
    text = capsys.readouterr().out
    assert "overall" in text and "0.750" in text and "flips by rule: color 1" in text
    assert main(["agreement", a, b, "--format=json"]) == 0
    assert json.loads(capsys.readouterr().out)["overall"]["first"] == 1
    bad = write(tmp_path / "bad.jsonl", [row(0, True), {"key": "x"}])
    for second, message in (
        (bad, f"line 2 of {bad}"),
        (bad, "Verdicts are those of `miro-jax evaluate WHAT --suite=geneval`."),
        (str(tmp_path / "none.jsonl"), "none.jsonl"),
        (write(tmp_path / "twice.jsonl", [row(0, True)] * 2), "holds image 00000/0 twice"),
        (write(tmp_path / "empty.jsonl", []), "it is empty"),
    ):
        assert main(["agreement", a, second]) == 2
        assert message in capsys.readouterr().err
