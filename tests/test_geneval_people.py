"""GenEval's verdicts beside those of people, read from the benchmark's annotation files."""

import csv
import json

import pytest

from miro_jax.__main__ import main
from miro_jax.evaluate.suites.geneval import people, prompts

# The columns of the published files, in their order.
COLUMNS = (
    "HITId,Input.index,Input.prompt_id,Input.image_id,Input.image_url,Input.caption,"
    "Input.object_0_name,Input.object_1_name,Input.object_0_name_plural,Input.object_1_name_plural,"
    "Input.exclude,Answer.ee,Answer.task-color-0,Answer.task-color-1,Answer.task-count-0,"
    "Answer.task-count-1,Answer.task-objects,Answer.task-position-x,Answer.task-position-y,"
    "Answer.task-quality,Answer.task-real-0,Answer.task-real-1"
).split(",")


def number_of(text):
    return next(n for n, one in enumerate(prompts.prompts()) if one.text == text)


def answer(text, image=0, counts=(1,), colors=(), x="neither_x", y="neither_y"):
    """What one rater says of an image, as the files spell it."""
    number = number_of(text)
    given = {
        "Input.prompt_id": number,
        "Input.image_id": image,
        "Input.image_url": f"https://host/sdv2/{number:05d}/samples/{image:05d}.png",
        "Input.caption": text,
        "Input.exclude": "" if len(counts) > 1 else "object-1,position",
        "Answer.task-count-0": counts[0],
        "Answer.task-count-1": float(counts[1]) if len(counts) > 1 else "",
        "Answer.task-objects": 'DOG, "CAT"',
        "Answer.task-position-x": x if len(counts) > 1 else "",
        "Answer.task-position-y": y if len(counts) > 1 else "",
    }
    given |= {f"Answer.task-color-{n}": "|".join(named) for n, named in enumerate(colors)}
    return given


def write(path, answers):
    with open(path, "w", newline="") as file:
        writer = csv.DictWriter(file, COLUMNS)
        writer.writeheader()
        writer.writerows(answers)
    return path


DONUTS, TEDDY = "a photo of four donuts", "a photo of a white teddy bear"
BICYCLE = "a photo of a bicycle above a parking meter"
KITE = "a photo of a black kite and a green bear"
TWO = "a photo of a toothbrush and a snowboard"
CASES = [
    (answer("a photo of a train", counts=(3,)), ""),
    (answer("a photo of a train", counts=(0,)), "detection"),
    (answer(TWO, counts=(1, 4)), ""),
    (answer(TWO, counts=(1, 0)), "detection"),
    (answer(DONUTS, counts=(4,)), ""),
    (answer(DONUTS, counts=(3,)), "count"),
    (answer(DONUTS, counts=(5,)), "count"),  # or more
    (answer(TEDDY, colors=[("black", "white")]), ""),
    (answer(TEDDY, colors=[("brown",)]), "color"),
    (answer(BICYCLE, counts=(1, 2), x="left", y="above"), ""),
    (answer(BICYCLE, counts=(1, 2), x="left", y="below"), "position"),
    (answer(BICYCLE, counts=(1, 2), x="", y=""), "position"),
    (answer(KITE, counts=(1, 1), colors=[("black",), ("green", "blue")]), ""),
    (answer(KITE, counts=(1, 1), colors=[("green",), ("black",)]), "color"),
]


@pytest.mark.parametrize(("given", "rule"), CASES)
def test_a_raters_verdict_applies_the_clauses_of_the_prompt(given, rule, tmp_path):
    (row,) = people.read(write(tmp_path / "a.csv", [given]))
    assert row["correct"] == (not rule) and row["votes"] == [not rule, 1]
    assert [one["rule"] for one in row["reasons"]] == [rule] * bool(rule)
    assert row["tag"] == prompts.prompts()[int(row["key"])].tag


def test_the_majority_of_raters_decides_and_half_of_them_is_none(tmp_path):
    some = [answer(DONUTS, 2, counts=(n,)) for n in (4, 4, 4, 3, 5)]
    half = [answer(TEDDY, 1, colors=[(color,)]) for color in ("white", "white", "red", "red")]
    rows = people.read(write(tmp_path / "a.csv", [*half, *some]))
    donuts, teddy = rows
    assert donuts["key"] == f"{number_of(DONUTS):05d}" and donuts["sample"] == 2
    assert donuts["correct"] and donuts["votes"] == [3, 5]
    assert not teddy["correct"] and teddy["reasons"] == [{"rule": "color"}]


def judged(text, image, correct, file=None):
    number = number_of(text)
    row = {"key": f"{number:05d}", "sample": image, "tag": prompts.prompts()[number].tag}
    reasons = [] if correct else [{"clause": 0, "class": "dog", "rule": "detection"}]
    return row | {"correct": correct, "reasons": reasons} | ({"file": file} if file else {})


def test_agreement_compares_a_judge_with_people_on_the_labelled_images(tmp_path, capsys):
    answers = [answer(DONUTS, 2, counts=(n,)) for n in (4, 4, 4, 4, 3)]
    answers += [answer(TEDDY, 1, colors=[("white",)])] * 5
    answers += [answer(KITE, 0, counts=(0, 0))] * 5
    labels = write(tmp_path / "labels.csv", answers)
    rows = [
        # The only image of its folder: the second, by its name, and not the first.
        judged(TEDDY, 0, False, "00328/samples/00001.png"),
        judged(DONUTS, 1, False),
        judged(DONUTS, 2, True),
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = ["agreement", str(tmp_path / "rows.jsonl"), str(labels)]
    assert main([*words, "--format=json"]) == 0
    result = json.loads(capsys.readouterr().out)
    whole = result["overall"]
    assert (whole["images"], whole["both"], whole["second"]) == (2, 1, 1)
    assert result["people"]["judged"] == 2 and result["people"]["labelled"] == 3
    assert result["people"]["raters"] == pytest.approx((4 * 3 + 5 * 4) / (2 * 5 * 4))
    assert whole["flips"] == {"detection": 1}
    assert main([words[0], *words[:0:-1], "--format=json"]) == 0
    turned = json.loads(capsys.readouterr().out)["overall"]
    assert (turned["first"], turned["second"]) == (1, 0)
    assert main(words) == 0
    out = capsys.readouterr().out
    assert "2 of 3 labelled images are judged; two raters of an image agree in 0.800 of" in out


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"Input.caption": "a photo of a cat"}, "line 2: prompt 328 is 'a photo of a white"),
        ({"Input.prompt_id": "553"}, "line 2: GenEval has 553 prompts; got number 553"),
        ({"Answer.task-count-0": "two"}, "line 2: could not convert string to float: 'two'"),
        ({"Input.prompt_id": ""}, "line 2: invalid literal"),
    ],
)
def test_what_is_no_answer_is_refused_with_its_line(change, said, tmp_path, capsys):
    labels = write(tmp_path / "a.csv", [answer(TEDDY, colors=[("white",)]) | change])
    (tmp_path / "rows.jsonl").write_text(json.dumps(judged(TEDDY, 0, True)) + "\n")
    assert main(["agreement", str(tmp_path / "rows.jsonl"), str(labels)]) == 2
    err = capsys.readouterr().err
    assert f"{labels}, {said}" in err and err.count("\n") == 1


def test_other_files_and_other_images_are_refused(tmp_path, capsys):
    (tmp_path / "rows.jsonl").write_text(json.dumps(judged(TEDDY, 0, True)) + "\n")
    (tmp_path / "scores.csv").write_text("key,clip@1\na.png,1\n")
    (tmp_path / "empty.csv").write_text(",".join(COLUMNS) + "\n")
    other = write(tmp_path / "other.csv", [answer(DONUTS, counts=(4,))])
    for path, said in (
        (tmp_path / "scores.csv", "must be a file of GenEval's annotations, such as"),
        (tmp_path / "empty.csv", "must hold answers of raters"),
        (tmp_path / "none.csv", f"there is no file {tmp_path / 'none.csv'}"),
        (other, "none of 1 is among the 1 that were judged"),
    ):
        assert main(["agreement", str(tmp_path / "rows.jsonl"), str(path)]) == 2
        assert said in capsys.readouterr().err
