"""GenEval's rules: a hand-made image for each rule and tag, edges, and a second implementation."""

import dataclasses
import hashlib
import json

import numpy as np
import pytest

from miro_jax.evaluate.suites.geneval import prompts, relation, rows, suite, verdict
from miro_jax.evaluate.suites.geneval.prompts import COLORS, Clause, Prompt
from miro_jax.evaluate.suites.measure import measure
from tests import geneval_numbers

METADATA = "5c48e0813e812e3c373fa5c8ed07a8f0a483be30272b4427b0559c8048e67c13"
BOX = (10, 10, 60, 60)
OFFICIAL = verdict.OFFICIAL


def objects(*scores_, boxes=None):
    boxes = boxes or [BOX] * len(scores_)
    return np.array([[*box, score] for box, score in zip(boxes, scores_, strict=True)], np.float32)


def logits(*names):
    """Logits [m, 10] whose arg-max is each of the names."""
    made = np.zeros((len(names), 10), np.float32)
    for row, name in enumerate(names):
        made[row, COLORS.index(name)] = 2.0
    return made


def prompt(tag, *include, exclude=()):
    return Prompt(tag, f"a {tag}", include, tuple(exclude))


def judge(one, found, colors=None, rules=OFFICIAL):
    return verdict.judge(one, found, colors or {}, rules)


def why(result):
    return [(reason["clause"], reason["rule"]) for reason in result.reasons]


def test_prompts_are_the_benchmarks_553_in_its_tags():
    data = (prompts.DATA / "evaluation_metadata.jsonl").read_bytes()
    assert hashlib.sha256(data).hexdigest() == METADATA
    every = prompts.prompts()
    counts = {tag: sum(p.tag == tag for p in every) for tag in prompts.TAGS}
    assert list(counts.values()) == [80, 99, 80, 94, 100, 100]
    assert len({p.text for p in every}) == 553 and len(prompts.class_names()) == 80
    assert [prompts.class_names()[i] for i in (64, 65, 66)] == [
        "computer mouse",
        "tv remote",
        "computer keyboard",
    ]
    relations_ = [c.position for p in every for c in p.include if c.position]
    assert all(index == 0 for _, index in relations_)
    assert [sum(r == name for r, _ in relations_) for name in relation.RELATIONS] == [
        19,
        27,
        26,
        28,
    ]
    assert sum(bool(p.exclude) for p in every) == 80
    assert {c.name for p in every for c in p.clauses} <= {*prompts.class_names()}
    assert {len(verdict.colored(p)) for p in every if p.tag == "color_attr"} == {2}
    assert len({c.name for p in every for c in p.include if c.color}) == 76


def test_one_object_counts_strictly_above_the_threshold():
    one = prompt("single_object", Clause("dog", 1))
    edge = np.float32(0.3)
    assert judge(one, {"dog": objects(np.nextafter(edge, np.float32(1)))}).correct
    for found in ({"dog": objects(edge)}, {"dog": objects(0.1)}, {}, {"cat": objects(0.99)}):
        result = judge(one, found)
        assert not result.correct and why(result) == [(0, "detection")]


def test_both_of_two_objects_must_be_there():
    two = prompt("two_object", Clause("dog", 1), Clause("cat", 1))
    assert judge(two, {"dog": objects(0.4), "cat": objects(0.5)}).correct
    assert why(judge(two, {"dog": objects(0.4)})) == [(1, "detection")]
    assert why(judge(two, {})) == [(0, "detection"), (1, "detection")]


def test_counting_needs_exactly_as_many_above_nine_tenths():
    three = prompt("counting", Clause("dog", 3), exclude=[Clause("dog", 4)])
    edge = np.float32(0.9)
    above = np.nextafter(edge, np.float32(1))
    assert judge(three, {"dog": objects(above, 0.95, 0.99, edge, 0.5)}).correct
    assert why(judge(three, {"dog": objects(edge, 0.95, 0.99)})) == [(0, "count")]
    assert why(judge(three, {"dog": objects(0.91, 0.95, 0.99, 0.92)})) == [(1, "count")]
    assert why(judge(three, {"dog": objects(0.5)})) == [(0, "detection")]


def test_a_duplicate_detection_of_one_object_makes_the_count_fail():
    two = prompt("counting", Clause("dog", 2), exclude=[Clause("dog", 3)])
    same = {"dog": objects(0.95, 0.95, 0.95, boxes=[BOX, (80, 80, 90, 90), BOX])}
    assert why(judge(two, same)) == [(1, "count")]


def test_at_most_16_of_a_class_count():
    every = {"dog": objects(*np.linspace(0.91, 0.99, 17))}
    sixteen = prompt("counting", Clause("dog", 16), exclude=[Clause("dog", 17)])
    seventeen = prompt("counting", Clause("dog", 17))
    assert judge(sixteen, every).correct
    assert why(judge(seventeen, every)) == [(0, "count")]
    wider = dataclasses.replace(OFFICIAL, most=17)
    assert why(judge(sixteen, every, rules=wider)) == [(1, "count")]
    assert judge(seventeen, every, rules=wider).correct


def test_the_best_object_has_the_colour_and_the_first_wins_a_tie():
    red = prompt("colors", Clause("car", 1, "red"))
    found = {"car": objects(0.5, 0.9)}
    assert judge(red, found, {"car": logits("red")}).correct
    assert why(judge(red, found, {"car": logits("blue")})) == [(0, "color")]
    tie = logits("red")
    tie[0, COLORS.index("blue")] = 2.0  # after red
    assert judge(red, found, {"car": tie}).correct
    blue = prompt("colors", Clause("car", 1, "blue"))
    assert why(judge(blue, found, {"car": tie})) == [(0, "color")]
    assert judge(blue, found, {"car": tie}).margins["color"] == 0
    with pytest.raises(ValueError, match="colours of 1 objects of class 'car'"):
        judge(red, found)


def test_both_colours_must_be_right_and_a_failure_spares_no_later_clause():
    both = prompt("color_attr", Clause("car", 1, "red"), Clause("dog", 1, "blue"))
    found = {"car": objects(0.5), "dog": objects(0.6)}
    assert judge(both, found, {"car": logits("red"), "dog": logits("blue")}).correct
    wrong = {"car": logits("blue"), "dog": logits("red")}
    assert why(judge(both, found, wrong)) == [(0, "color"), (1, "color")]
    assert why(judge(both, found | {"car": objects(0.1)}, wrong)) == [
        (0, "detection"),
        (1, "color"),
    ]


# The table of the benchmark's own formula: two boxes, (dx, dy), the relations of the first.
RELATIONS = [
    ((0, 0, 10, 10), (30, 0, 40, 10), (-0.9333, 0), {"left of"}),
    ((0, 0, 10, 10), (20, 20, 30, 30), (-0.6364, -0.6364), {"left of", "above"}),
    ((0, 0, 10, 10), (4, 0, 14, 10), (-0.5, 0), set()),
    ((0, 0, 10, 10), (5, 0, 15, 10), (-0.6, 0), {"left of"}),
    ((0, 0, 10, 10), (1, 0, 11, 10), (0, 0), set()),
    ((0, 0, 100, 100), (60, 10, 160, 110), (-0.6576, 0), {"left of"}),
    ((50, 0, 60, 10), (0, 30, 100, 40), (0, -0.9206), {"above"}),
    ((3, 4, 5, 6), (3, 4, 5, 6), (0, 0), set()),
]


def holding(box, target):
    """The relations of a box to another one that hold."""
    found = relation.components(box, target)
    return {name for name, value in found.items() if value > relation.LEAST}


@pytest.mark.parametrize(("box", "target", "wanted", "names"), RELATIONS)
def test_relations_of_boxes(box, target, wanted, names):
    box, target = np.array(box, np.float32), np.array(target, np.float32)
    found = relation.components(box, target)
    assert (found["right of"], found["below"]) == pytest.approx(wanted, abs=1e-4)
    assert holding(box, target) == names
    turned = {"left of": "right of", "right of": "left of", "above": "below", "below": "above"}
    assert holding(target, box) == {turned[name] for name in names}


def test_the_second_class_stands_in_the_relation_to_the_first():
    left = prompt("position", Clause("cat", 1), Clause("dog", 1, position=("left of", 0)))
    found = {
        "cat": objects(0.9, 0.5, boxes=[(60, 0, 70, 10), (0, 0, 10, 10)]),
        "dog": objects(0.9, boxes=[(30, 0, 40, 10)]),
    }
    assert judge(left, found).correct
    swapped = {"cat": found["dog"], "dog": found["cat"]}
    assert why(judge(left, swapped)) == [(1, "position")]
    assert judge(left, swapped).reasons[0]["got"] == ["right of"]
    assert why(judge(left, {"dog": found["dog"]})) == [(0, "detection"), (1, "target")]


def test_every_pair_of_a_position_must_hold():
    two = prompt("position", Clause("cat", 2), Clause("dog", 1, position=("left of", 0)))
    dog = objects(0.9, boxes=[(30, 0, 40, 10)])
    right = {"cat": objects(0.9, 0.8, boxes=[(60, 0, 70, 10), (90, 0, 99, 10)]), "dog": dog}
    assert judge(two, right).correct
    mixed = {"cat": objects(0.9, 0.8, boxes=[(60, 0, 70, 10), (0, 0, 10, 10)]), "dog": dog}
    assert why(judge(two, mixed)) == [(1, "position")]


def test_the_overall_score_is_the_mean_of_tags_and_not_of_images():
    made = [{"tag": "single_object", "prompt": i // 4, "correct": True} for i in range(80)]
    for number, tag in enumerate(prompts.TAGS[1:]):
        made += [{"tag": tag, "prompt": (tag, i // 4), "correct": i == number} for i in range(8)]
    found = geneval_numbers.summarize(made)
    assert found["overall"] == pytest.approx((1 + 5 / 8) / 6)
    assert found["correct_images"] == pytest.approx(85 / 120)
    assert found["correct_prompts"] == pytest.approx(25 / 30)
    assert geneval_numbers.summarize(made[:80])["overall"] is None
    for some in (made, made[:80]):
        listed = [row | {"key": str(row["prompt"]), "prompt": str(row["prompt"])} for row in some]
        metrics, wanted = measure(suite.make_suite(), listed), geneval_numbers.summarize(some)
        for name in ("overall", "correct_images", "correct_prompts"):
            same = None if wanted[name] is None else pytest.approx(wanted[name])
            assert metrics[name]["value"] == same
    with pytest.raises(ValueError, match="at least one"):
        geneval_numbers.summarize([])


EDGES = np.array([0.3, 0.9, 0.31, 0.29, 0.91, 0.89, 0.95, 0.5, 0.05])


def random_case(rng):
    """Draw one prompt of the benchmark, objects near all edges, and colours."""
    one = prompts.prompts()[rng.integers(553)]
    found = {}
    for name in {clause.name for clause in one.clauses}:
        count = rng.integers(0, 6)
        corner = rng.integers(0, 200, (count, 2))
        extent = rng.integers(0, 60, (count, 2))
        score = EDGES[rng.integers(0, 9, count)]
        score = score + 1e-4 * rng.integers(-1, 2, count) * rng.random(count)
        boxes = np.concatenate([corner, corner + extent, score[:, None]], axis=1)
        found[name] = boxes.astype(np.float32)
    colors = {}
    for clause in one.include:
        if clause.color:
            drawn = rng.normal(size=(clause.count, 10))
            drawn[:, COLORS.index(clause.color)] += 2 * rng.integers(0, 2)
            colors[clause.name] = drawn.astype(np.float32)
    return one, found, colors


def second_opinion(one, found, colors):
    """The rules written a second time, from their description, over plain Python numbers."""
    least = 0.9 if one.tag == "counting" else 0.3
    correct, taken = True, []
    for clause in one.include:
        usable = [row for row in found.get(clause.name, []) if row[4] > np.float32(least)]
        usable = sorted(usable, key=lambda row: -row[4])[:16][: clause.count]
        good = len(usable) == clause.count
        if good and clause.color is not None:
            named = [COLORS[int(np.argmax(colors[clause.name][k]))] for k in range(clause.count)]
            good = named == [clause.color] * clause.count
        if good and clause.position is not None:
            relation_, group = clause.position
            good = taken[group] is not None and all(
                stands(relation_, a, b) for a in usable for b in taken[group]
            )
        taken.append(usable if good else None)
        correct = correct and good
    for clause in one.exclude:
        left = sum(row[4] > np.float32(least) for row in found.get(clause.name, []))
        correct = correct and left < clause.count
    return correct


def stands(relation_, a, b):
    """Whether box a stands in the relation to box b, coordinate by coordinate."""
    f = np.float32
    offset, kept = [], []
    for axis in (0, 1):
        middle = (f(a[axis]) + f(a[axis + 2])) / f(2) - (f(b[axis]) + f(b[axis + 2])) / f(2)
        room = f(0.1) * ((f(a[axis + 2]) - f(a[axis])) + (f(b[axis + 2]) - f(b[axis])))
        offset.append(middle)
        kept.append(np.sign(middle) * max(abs(middle) - room, f(0)))
    if abs(kept[0]) < f(1e-3) and abs(kept[1]) < f(1e-3):
        return False
    length = np.sqrt(offset[0] * offset[0] + offset[1] * offset[1])
    x, y = kept[0] / length, kept[1] / length
    return {"left of": -x, "right of": x, "above": -y, "below": y}[relation_] > f(0.5)


@pytest.mark.slow
def test_ten_thousand_random_images_get_the_verdict_of_a_second_implementation():
    rng = np.random.default_rng(0)
    verdicts = []
    for _ in range(10_000):
        one, found, colors = random_case(rng)
        result = judge(one, found, colors).correct
        assert result == second_opinion(one, found, colors), (one, found, colors)
        verdicts.append(result)
    assert 0.1 < np.mean(verdicts) < 0.9


def test_other_classes_order_and_scale_never_change_a_verdict():
    rng = np.random.default_rng(1)
    for _ in range(1000):
        one, found, colors = random_case(rng)
        before = judge(one, found, colors)
        strange = {n: objects(0.99, 0.95) for n in ("toaster", "zebra") if n not in found}
        assert judge(one, found | strange, colors) == before
        turned = {name: rng.permutation(own) for name, own in found.items()}
        ties = any(len(set(own[:, 4])) < len(own) for own in found.values())
        assert ties or judge(one, turned, colors) == before
        double = {name: own * np.array([2, 2, 2, 2, 1], np.float32) for name, own in found.items()}
        assert why(judge(one, double, colors)) == why(before)


def test_a_row_is_judged_again_alike_and_by_other_thresholds():
    rng = np.random.default_rng(2)
    sizes = []
    for _ in range(500):
        one, found, colors = random_case(rng)
        row = json.loads(json.dumps(rows.make_row(one, (256, 256), found, colors)))
        sizes.append(len(json.dumps(row)))
        again = rows.judge_again(row, one, OFFICIAL)
        assert [again.correct, list(again.reasons)] == [row["correct"], row["reasons"]]
        other = verdict.Rules(score=0.05, counting=0.5, most=4)
        again, whole = rows.judge_again(row, one, other), judge(one, found, colors, other)
        assert (again.correct, again.reasons) == (whole.correct, whole.reasons)
    assert np.mean(sizes) < 1200
    with pytest.raises(ValueError, match=r"score must be at least 0\.05"):
        rows.judge_again(row, one, verdict.Rules(score=0.01))


def test_a_damaged_row_is_refused_by_name():
    one = prompt("colors", Clause("car", 1, "red"))
    row = rows.make_row(one, (8, 9), {"car": objects(0.5)}, {"car": logits("red")})
    assert rows.read_row(row, "a.jsonl:3")[0]["car"].tolist() == objects(0.5).tolist()
    for change, message in (
        ({"objects": {"car": [[1, 2, 3, 0.5]]}}, "objects must have rows of 5"),
        ({"colors": {"car": [[1.0]]}}, "colors must have rows of 10"),
        ({"correct": 1}, "correct must be true or false"),
    ):
        with pytest.raises(ValueError, match=r"a\.jsonl:3.*" + message):
            rows.read_row(row | change, "a.jsonl:3")


def test_decisive_scores_near_their_threshold_are_counted():
    one = prompt("single_object", Clause("dog", 1))
    made = [
        rows.make_row(one, (8, 8), {"dog": objects(*own)}, {})
        for own in ((0.305,), (0.295, 0.1), (0.4, 0.3), (0.9,))
    ]
    assert [round(row["margins"]["score"], 3) for row in made] == [0.005, 0.005, 0.1, 0.6]
    assert sum(map(rows.is_near, made)) == 2
