"""Grids and strips: what each picture of isolate, tradeoff and sweep is asked for."""

import numpy as np
import pytest

from miro_jax import sample
from miro_jax.sample import draw, pipeline
from miro_jax.sample.verbs import Images, Isolate, Loop, Search, Sweep, Tradeoff
from tests.sampling import NAMES, Dial, contents, save_tiny


def ask(**changes):
    return sample.ask(NAMES, ["a red circle", "b"], **changes)


def table(sheet):
    """Column label -> (levels asked for, levels of the negative branch, guidance scale)."""
    first = sheet.images[: len(sheet.columns) * sheet.num_images : sheet.num_images]
    return {
        label: (
            list(p.targets.values()),
            list(p.negative_targets.values()),
            p.settings.guidance_scale,
        )
        for label, p in zip(sheet.columns, first, strict=True)
    }


def test_isolation_changes_one_level_of_the_negative_branch_at_a_time():
    assert table(Isolate().sheet(ask())) == {
        "no guidance": ([1, 1, 1], [0, 0, 0], 0.0),
        "beauty alone": ([1, 1, 1], [0, 1, 1], 7.0),
        "count alone": ([1, 1, 1], [1, 0, 1], 7.0),
        "colors alone": ([1, 1, 1], [1, 1, 0], 7.0),
        "all rewards": ([1, 1, 1], [0, 0, 0], 7.0),
    }


def test_isolation_stays_isolation_around_other_targets():
    found = table(Isolate(("count",)).sheet(ask(targets={"beauty": 0.5, "colors": None})))
    assert found["count alone"] == ([0.5, 1, None], [0.5, 0, None], 7.0)
    assert len(found) == 3
    asked = ask(negative_targets={"beauty": 0.25})
    assert table(Isolate(("count",)).sheet(asked))["count alone"][1] == [0.25, 0, 1]


def test_a_trade_off_moves_the_push_from_one_reward_to_the_other():
    assert table(Tradeoff("colors", "beauty", 3).sheet(ask())) == {
        "u = 0: colors alone": ([1, 1, 1], [1, 1, 0], 7.0),
        "u = 0.5": ([1, 1, 1], [0.5, 1, 0.5], 7.0),
        "u = 1: beauty alone": ([1, 1, 1], [0, 1, 1], 7.0),
    }


@pytest.mark.parametrize("call", [sample.isolation_grid, sample.reward_loop])
def test_one_text_in_place_of_names_of_rewards_is_refused(call):
    """It would be a list of its letters."""
    with pytest.raises(TypeError, match="rewards must be a list of names; got the one text 'count"):
        call(Dial(), "a", "count")
    with pytest.raises(TypeError, match="rewards must be a list of names; got 3"):
        call(Dial(), "a", 3)


def test_targets_of_a_prompt_that_are_no_mapping_are_refused():
    with pytest.raises(TypeError, match="targets must be {name: level}; got 3"):
        sample.isolation_grid(Dial(), [sample.Prompt("a", targets=3)])


def test_the_ends_of_a_trade_off_are_columns_of_the_isolation_grid():
    strip = Tradeoff("count", "beauty").sheet(ask()).images
    grid = Isolate().sheet(ask()).images
    assert strip[0].negative_targets == grid[2].negative_targets
    assert strip[4].negative_targets == grid[1].negative_targets


def test_a_sweep_asks_for_one_reward_at_rising_levels():
    assert table(Sweep("beauty", 3).sheet(ask(targets={"count": 0.25, "beauty": 0.9}))) == {
        "beauty = 0": ([0, 0.25, 1], [0, 0, 0], 7.0),
        "beauty = 0.5": ([0.5, 0.25, 1], [0, 0, 0], 7.0),
        "beauty = 1": ([1, 0.25, 1], [0, 0, 0], 7.0),
    }


@pytest.mark.parametrize("verb", [Isolate(), Tradeoff("beauty", "count", 33), Sweep("beauty", 256)])
def test_all_pictures_of_a_prompt_start_from_the_same_noise_and_have_their_own_file(verb):
    sheet = verb.sheet(ask(num_images=2, seed=5))
    pictures = sheet.images
    assert len({p.file for p in pictures}) == len(pictures) == 2 * len(sheet.columns) * 2
    for prompt in range(2):
        for index in range(2):
            noise = {
                (p.seed, p.prompt_index, p.sample_index)
                for p in pictures
                if p.prompt_index == prompt and p.sample_index == index
            }
            assert noise == {(5, prompt, index)}
    assert len({p.file.rsplit("-", 1)[0] for p in pictures}) == 2 * len(sheet.columns)


@pytest.mark.parametrize(
    "verb, said",
    [
        (Isolate(("beuty",)), "Unknown reward 'beuty'; .* beauty, count"),
        (Tradeoff("beauty", "x"), "Unknown reward 'x'"),
        (Tradeoff("beauty", "beauty"), "needs two rewards; got 'beauty' twi"),
        (Tradeoff("beauty", "count", 1), "levels must be at least 2; got 1"),
        (Tradeoff("beauty", "count", 257), "levels must be at most 256; got 257"),
        (Sweep("x"), "Unknown reward 'x'"),
    ],
)
def test_what_cannot_be_requested_is_named(verb, said):
    with pytest.raises(ValueError, match=said):
        verb.sheet(ask())


def test_isolation_needs_a_network_with_rewards():
    with pytest.raises(ValueError, match="conditioned on, of none; got none"):
        Isolate().sheet(sample.ask((), ["a"]))


# From Python.


def test_calls_from_python_draw_the_same_grids_as_the_sheets():
    pipe = Dial()
    grid = sample.isolation_grid(pipe, "a red circle", ["count"], seed=3, num_steps=2)
    assert grid.dtype == np.uint8 and grid.ndim == 3
    assert {call["negative_prompt"] for call in pipe.calls} == {"same"}
    assert {call["guidance_scale"] for call in pipe.calls} == {0.0, 7.0}
    assert {call["num_steps"] for call in pipe.calls} == {2}
    asked = sample.ask(NAMES, "a red circle", seed=3, num_steps=2, negative_prompt="same")
    sheet = Isolate(("count",)).sheet(asked)
    images = np.concatenate([draw.draw(Dial(), [image]) for image in sheet.images])
    np.testing.assert_array_equal(grid, draw.draw_grid(sheet, images))


def test_strips_have_a_row_a_prompt_and_a_column_a_level():
    pipe = Dial()
    prompts = ["a", "b"]
    narrow = sample.tradeoff_strip(pipe, prompts, "beauty", "count", 9)
    wide = sample.tradeoff_strip(pipe, prompts, "beauty", "count", 17)
    assert wide.shape[1] - narrow.shape[1] == 8 * (6 * 8 + 10)  # pictures enlarged six times
    assert {call["negative_prompt"] for call in pipe.calls} == {"same"}
    one = sample.sweep_strip(pipe, ["a"], "beauty", 9)
    two = sample.sweep_strip(pipe, ["a", "b"], "beauty", 9, negative_prompt="empty")
    assert two.shape[0] > one.shape[0] + 64
    assert pipe.calls[-1]["negative_prompt"] == "empty"
    with pytest.raises(TypeError, match="guidance"):
        sample.sweep_strip(pipe, ["a"], "beauty", guidance=3)


@pytest.mark.parametrize("verb", [Images(), Sweep("count"), Loop(("count",))])
def test_a_title_names_no_levels_that_are_of_some_prompts_alone(verb):
    def title(*prompts):
        return verb.sheet(sample.ask(NAMES, list(prompts))).title

    own, varied = (sample.Prompt("a", {name: 0.25}) for name in ("beauty", "count"))
    assert "levels by prompt; guidance" in title(own, sample.Prompt("b"))
    assert "beauty 0.25, all others 1; guidance" in title(own)
    assert ("levels by prompt" in title(varied, sample.Prompt("b"))) == isinstance(verb, Images)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.mark.parametrize(
    "words, name",
    [
        (["images"], "grid.png"),
        (["isolate"], "grid.png"),
        (["best", "beauty"], "scores.jsonl"),
        (["best", "beauty"], "curve.svg"),
        (["loop", "--format=gif"], "loop.gif"),
        (["search", "--objective=beauty", "--prompt=b"], "preset.json"),
        (["search", "--objective=beauty", "--prompt=b"], "search.jsonl"),
    ],
)
def test_files_of_others_are_not_written_over(
    checkpoint, monkeypatch, capsys, tmp_path, words, name
):
    monkeypatch.setattr(pipeline, "open_pipeline", lambda options: 1 / 0)
    (tmp_path / name).write_text("mine")
    given = ["--prompt=a", f"--checkpoint={checkpoint}", f"--out={tmp_path}"]
    assert sample.main([*words, *given]) == 2
    assert f"holds {name}, and nothing there says how" in capsys.readouterr().err
    assert contents(tmp_path) == {name: b"mine"}


def test_images_are_written_on_this_machine_alone(checkpoint, capsys):
    given = ["--prompt=a", f"--checkpoint={checkpoint}", "--out=gs://bucket/images"]
    assert sample.main(given) == 2
    said = "argument --out: must be a folder of this machine; got 'gs://bucket/images'"
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("scale, expected", [(3, (0, 6)), (-3, (-6, 0)), (600, (0, 1000))])
def test_a_search_looks_from_no_guidance_to_twice_that_of_the_request(scale, expected):
    assert Search(("beauty",)).scales(ask(guidance_scale=scale)) == expected
