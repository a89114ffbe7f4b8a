"""Target search: optima of known functions, confirmation, presets that travel or are refused."""

import dataclasses
import json
import pathlib
import re

import numpy as np
import pytest

from miro_jax import sample
from miro_jax.sample import halving, pipeline, search
from miro_jax.sample.confirmation import describe
from miro_jax.sample.preset import Preset, read_preset
from miro_jax.sample.surface import Box, fit, propose, spread
from tests.sampling import NAMES, Dial, contents, save_tiny

PROMPTS = [f"a red circle {n}" for n in range(8)]
WANTED = np.array([0.6, 1.0, 0.25])  # levels that `Near` likes best


def box(dimensions):
    return Box(np.zeros(dimensions), np.ones(dimensions))


# The surface.


def test_search_finds_the_optimum_of_a_noisy_quadratic():
    best, weights = np.array([0.35, 1.0, 0.6, 0.8, 0.1, 1.0, 0.5, 0.7]), np.linspace(0.05, 0.2, 8)

    def value(points):
        return -np.sum(weights * (points - best) ** 2, axis=1)

    regrets = []
    for seed in range(5):
        rng = np.random.default_rng(seed)
        constants = rng.normal(size=16)

        def noisy(points, numbers, rng=rng, constants=constants):
            noise = 0.2 * rng.normal(size=len(points))
            return value(points) + constants[numbers % 16] + noise

        found = propose(noisy, box(8), 4096, np.ones(8), 16, seed)[0]
        regrets.append(-value(found[None])[0])
    at_start = -value(np.ones((1, 8)))[0]
    assert np.mean(regrets) < 0.06 * at_start and max(regrets) < 0.15 * at_start


def test_search_is_exact_where_there_is_no_noise_and_respects_the_box():
    outer = Box(np.array([0.0, -2.0, 1.0]), np.array([1.0, 6.0, 1.0]))  # the last cannot vary

    def value(points, numbers):
        x, y, _ = points.T
        return 100.0 - (x - 0.4) ** 2 + 0.1 * (y - 9.0) - 50.0 * (numbers % 3)

    found = propose(value, outer, 600, np.ones(3), 3, steps=np.array([0, 5, 0]))[0]
    np.testing.assert_allclose(found, [0.4, 6.0, 1.0], atol=0.01)


def test_the_peak_does_not_depend_on_units_or_on_what_prompts_score():
    points = spread(box(2), 256, 0, np.zeros(2, int))
    values = -((points - [0.3, 0.8]) ** 2).sum(axis=1)
    groups = np.arange(256) % 4
    plain = fit(points, values, groups, box(2)).peak(np.ones(2))
    np.testing.assert_allclose(plain, [0.3, 0.8], atol=0.02)
    scaled = fit(points, 7e3 * values + 1e4 * groups, groups, box(2))
    np.testing.assert_allclose(scaled.peak(np.ones(2)), plain)
    for caution in (0.5, 2.0):  # likewise where gains must exceed their standard errors
        usual = fit(points, values, groups, box(2)).peak(np.ones(2), caution)
        np.testing.assert_allclose(scaled.peak(np.ones(2), caution), usual)


def test_points_fill_the_box_and_take_the_steps_asked_for():
    points = spread(Box(np.array([0.0, 2.0]), np.array([1.0, 4.0])), 500, 1, np.array([0, 5]))
    counts = np.histogram(points[:, 0], 10, (0, 1))[0]
    assert points.shape == (500, 2) and counts.min() > 40 and counts.max() < 60
    assert sorted(set(points[:, 1])) == [2.0, 2.5, 3.0, 3.5, 4.0]


def test_a_coordinate_leaves_the_start_only_where_the_gain_exceeds_its_standard_errors():
    rng, start = np.random.default_rng(0), np.array([1.0, 0.7, 0.2, 0.9])
    points = spread(box(4), 512, 0, np.zeros(4, int))
    values = -2 * (points[:, 0] - 0.3) ** 2 + 0.5 * rng.normal(size=512)  # the others do nothing
    fitted = fit(points, values, np.zeros(512, int), box(4))
    cautious = fitted.peak(start, 3.0)
    np.testing.assert_array_equal(cautious[1:], start[1:])
    assert cautious[0] == pytest.approx(0.4, abs=0.2)
    assert np.abs(fitted.peak(start)[1:] - start[1:]).max() > 0.1  # without caution it is noise


def test_the_best_candidate_is_chosen_and_the_start_where_none_is_better_beyond_chance():
    def choose(means, noise, seed):
        spent = [0] * len(means)

        def evaluate(index, numbers):
            spent[index] += len(numbers)
            shared = np.random.default_rng([seed, *numbers[:1]]).normal(size=len(numbers))
            own = np.random.default_rng([seed, index, *numbers[:1]]).normal(size=len(numbers))
            return means[index] + 3 * shared + noise * own

        return halving.select(evaluate, len(means), range(100, 700)), spent

    chosen, spent = choose([0.0, 0.1, 0.5, -0.5, 0.2, 0.0], 0.1, 0)
    assert chosen == 2 and sum(spent) <= 600 and max(spent) == spent[0] == spent[2] > 2 * spent[3]
    flat = [choose([0.0] * 6, 1.0, seed)[0] for seed in range(40)]
    assert flat.count(0) >= 20  # the best of five equal ones seldom passes
    assert all(choose([0.0, -0.3, -0.3, -0.3], 1.0, seed)[0] == 0 for seed in range(20))
    assert halving.select(lambda *_: 1 / 0, 1, range(100)) == 0  # nothing to compare


# The search.


class Near:
    """Likes images of a Dial whose levels are near WANTED and whose guidance is low."""

    identity = "near@1"

    def score(self, images, prompts):
        values = images[:, :, 0, 0] / 255
        distance = ((values[:, :3] - WANTED) ** 2).sum(axis=1)
        luck = 0.05 * values[:, 7] + 0.1 * np.array([int(text[-1]) for text in prompts])
        return luck - distance - 0.5 * values[:, 6]


def find(pipe=None, **changes):
    asked = {"num_images": 2, "seed": 3, "guidance_scale": 2.0, "num_steps": 3} | changes
    budget = asked.pop("budget", 512)
    judge = asked.pop("objective", Near())
    return search.find_preset(pipe or Dial(), PROMPTS, judge, budget, **asked)


@pytest.mark.over_a_second
def test_a_search_finds_levels_and_guidance_and_confirms_on_fresh_prompts_and_seeds():
    pipe = Dial()
    preset = find(pipe)
    np.testing.assert_allclose([preset.targets[n] for n in NAMES], WANTED, atol=0.06)
    assert preset.guidance_scale == pytest.approx(0.0, abs=0.2) and preset.negative_targets == {}
    c = preset.confirmed
    assert c["gain"]["low"] > 0 and c["prompts"] == c["prompts_not_searched"] == 4
    expected = 0.4**2 + 0.75**2 + 0.5 * (2.0 - preset.guidance_scale) / 10
    assert c["gain"]["mean"] == pytest.approx(expected, abs=0.03)
    best = c["best_of_n"]
    assert c["images_per_prompt"] == 512 // 8 // 4
    assert best["n"] == 16 + 512 // 4 and best["n_that_equals_preset"] is None
    assert best["gain_of_preset"]["low"] > 0
    assert preset.found_on["checkpoint"] == "dial sha256:d1a1"
    drawn = sum(len(call["prompts"]) for call in pipe.calls)
    # The comparison costs what the search did, in which halving divides by up to six candidates.
    assert 0 <= 2 * (512 + 4 * 16) - drawn <= 3 * 6
    assert c["candidate"]["targets"] == preset.targets
    assert not any("default" in line and "kept" in line for line in describe(preset))


class Known(Near):
    """Likes the default best: level 1 of everything and guidance 2."""

    def score(self, images, prompts):
        values = images[:, :, 0, 0] / 255
        return values[:, 7] + values[:, :3].sum(axis=1) - 10 * np.abs(values[:, 6] - 0.2)


@pytest.mark.over_a_second
def test_where_nothing_is_better_the_preset_is_the_defaults():
    preset = find(objective=Known(), targets={"beauty": 1.0})
    assert preset.targets == {"beauty": 1.0} and preset.guidance_scale == 2.0
    c = preset.confirmed
    assert c["candidate"] is None and c["gain"] == {"mean": 0.0, "low": 0.0, "high": 0.0}
    assert "These are the defaults" in describe(preset)[1]


class Shifting(Near):
    """What the search liked is worse on the prompts that confirm, which have odd numbers."""

    def score(self, images, prompts):
        odd = np.array([int(text[-1]) % 2 for text in prompts])
        return np.where(odd, -1.0, 1.0) * super().score(images, prompts)


@pytest.mark.over_a_second
def test_a_candidate_that_fresh_prompts_reject_is_named_and_the_defaults_are_kept():
    preset = find(objective=Shifting())
    c = preset.confirmed
    assert c["gain"]["mean"] < 0 and preset.targets == {} and preset.guidance_scale == 2.0
    np.testing.assert_allclose([c["candidate"]["targets"][n] for n in NAMES], WANTED, atol=0.06)
    lines = describe(preset)
    assert f"beauty {c['candidate']['targets']['beauty']:g}" in lines[0]
    assert "defaults are kept: beauty 1, count 1, colors 1; guidance 2" in lines[-1]


@pytest.mark.over_a_second
def test_what_does_not_vary_stays_as_requested():
    preset = find(rewards=["colors"], targets={"beauty": 0.5}, negative=True, guidance_scale=0.0)
    assert preset.targets.keys() == {"beauty", "colors"} and preset.targets["beauty"] == 0.5
    assert preset.negative_targets.keys() == {"colors"} and preset.guidance_scale == 0
    assert preset.targets["colors"] == pytest.approx(0.25, abs=0.05)


def test_levels_that_a_prompt_has_of_its_own_stay_in_the_search_as_where_it_is_drawn():
    class Own(Near):
        def score(self, images, prompts):
            np.testing.assert_array_equal(images[:, 1, 0, 0], 128)  # count at 0.5
            np.testing.assert_array_equal(images[:, 5, 0, 0], 255)  # and 1 in the negative branch
            return super().score(images, prompts)

    own = {"targets": {"count": 0.5}, "negative_targets": {"colors": 1.0}}
    prompts = [sample.Prompt(text, **own) for text in PROMPTS]
    found = search.find_preset(
        Dial(), prompts, Own(), 256, negative=True, num_steps=3, guidance_scale=2.0
    )
    assert found.targets["beauty"] == pytest.approx(WANTED[0], abs=0.1)


@pytest.mark.parametrize(
    "prompts, changes, words",
    [
        (PROMPTS[:1], {}, "two or more prompts"),
        (PROMPTS[0], {}, "two or more prompts"),
        (PROMPTS, {"rewards": ["clip"]}, "Unknown reward 'clip'; this model knows: beauty"),
        (PROMPTS, {"budget": 5}, "budget must be at least 64"),
        (PROMPTS, {"rewards": [], "guidance_scale": 0.0}, "a target or the guidance scale"),
    ],
)
def test_searches_that_cannot_be_are_refused(prompts, changes, words):
    with pytest.raises(ValueError, match=words):
        search.find_preset(Dial(), prompts, Near(), **changes)


def test_one_text_in_place_of_names_of_rewards_is_refused():
    with pytest.raises(TypeError, match="rewards must be a list of names; got the one text 'count"):
        search.find_preset(Dial(), PROMPTS, Near(), rewards="count")


def test_a_score_that_is_not_finite_is_named():
    class Broken(Near):
        def score(self, images, prompts):
            return np.full(len(images), np.nan)

    with pytest.raises(FloatingPointError, match="near@1 gave nan to sample 0 of 'a red circle 0'"):
        search.find_preset(Dial(), PROMPTS, Broken(), 64)


# Presets.

PRESET = Preset(
    NAMES,
    {"beauty": 0.6, "count": None},
    {"colors": 0.25},
    3.5,
    {"checkpoint": "dial sha256:d1a1", "objective": "near@1"},
)


def write(path, **changes):
    content = json.loads(PRESET.to_json()) | changes
    pathlib.Path(path).write_text(json.dumps(content))
    return path


def test_a_preset_survives_its_file(tmp_path):
    (tmp_path / "p.json").write_bytes(PRESET.to_json())
    assert read_preset(tmp_path / "p.json") == dataclasses.replace(PRESET, rewards=NAMES)


@pytest.mark.parametrize(
    "changes, words",
    [
        ({"preset": 2}, "must be a preset of format 1; a newer version wrote it"),
        ({"targets": {"clip": 0.5}}, "Unknown reward 'clip'; this model knows: beauty"),
        ({"targets": {"beauty": 1.5}}, "must be a number in .0, 1."),
        ({"guidance_scale": "much"}, "guidance_scale must be"),
        ({"found_on": PRESET.found_on | {"solver": "rk4"}}, "solver must be one of euler"),
        ({"rewards": "beauty"}, "rewards must be"),
    ],
)
def test_damaged_presets_are_refused_with_the_file(tmp_path, changes, words):
    with pytest.raises(ValueError, match=f"p.json.*{words}"):
        read_preset(write(tmp_path / "p.json", **changes))


def test_presets_of_another_network_are_refused():
    with pytest.raises(ValueError, match="this network has clip; the preset is for beauty, count"):
        PRESET.check_rewards(["clip"])
    with pytest.raises(ValueError, match="weights that it was found on, dial sha256:d1a1; got b"):
        PRESET.check_weights("b sha256:0")
    PRESET.check_weights("elsewhere step 3 sha256:d1a1")  # the same weights in another folder


# The command.


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def loaded(checkpoint):
    yield pipeline.MiroPipeline.from_pretrained(checkpoint, batch_size=16)


@pytest.fixture
def run(checkpoint, loaded, monkeypatch, capsys, tmp_path):
    """Run a command in an empty folder: (status, stdout, stderr)."""
    monkeypatch.setattr(pipeline, "open_pipeline", lambda flags: loaded)
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        status = sample.main([*arguments, f"--checkpoint={checkpoint}"])
        return status, *capsys.readouterr()

    return call


SEARCH = ("search", "--categories=single_object,colors", "--prompts-per-category=2", "--out=o")
QUICK = ("--budget=64", "--steps=1", "--guidance-scale=1")
FINDS = ("--budget=128", *QUICK[1:])  # enough to find something better


@pytest.mark.over_a_second
def test_the_command_writes_a_preset_that_sampling_takes(run, loaded, checkpoint):
    status, out, err = run(*SEARCH, *FINDS, "--objective=colors")
    assert status == 0 and out.endswith("\no\n"), err
    assert "guidance" in out and "on 2 fresh prompts: preset " in out
    files = contents(pathlib.Path("o"))
    scores = files["search.jsonl"].decode().splitlines()
    assert len(scores) == 85 and len(json.loads(files["manifest.json"])["images"]) == 4
    again = run(*SEARCH, *FINDS, "--objective=colors")
    assert again[1] == out and contents(pathlib.Path("o")) == files
    assert run(*SEARCH, *FINDS, "--objective=beauty")[0] == 2  # another search

    pathlib.Path("o/manifest.json").unlink()  # stopped in the middle: the rest is drawn again
    pathlib.Path("o/preset.json").unlink()
    pathlib.Path("o/grid.png").unlink()
    pathlib.Path("o/search.jsonl").write_text("\n".join(scores[:20]) + "\n")
    for name in ("manifest.partial.json",):
        request = json.loads(files["manifest.json"])["request"]
        images = [{"file": f} for f in files if f.startswith("default/")]
        pathlib.Path("o", name).write_text(json.dumps({"request": request, "images": images}))
    assert run(*SEARCH, *FINDS, "--objective=colors")[0] == 0
    assert contents(pathlib.Path("o"))["preset.json"] == files["preset.json"]

    preset = read_preset("o/preset.json")
    plain = ("--prompt=a", "--steps=2")
    assert run(*plain, "--preset=o/preset.json", "--out=p", "--target=beauty=0.125")[0] == 0
    (entry,) = json.loads(pathlib.Path("p/manifest.json").read_text())["images"]
    assert entry["targets"] == preset.targets | {"beauty": 0.125}
    assert entry["guidance_scale"] == preset.guidance_scale
    assert entry["num_steps"] == 2
    assert run("--prompt=a", "--preset=o/preset.json", "--out=one")[0] == 0
    (entry,) = json.loads(pathlib.Path("one/manifest.json").read_text())["images"]
    assert entry["num_steps"] == 1  # of the search
    ours = pipeline.MiroPipeline(loaded.trained, 16, "o/preset.json")
    how = {"num_steps": 2, "output_type": "numpy"}
    usual = loaded("a", targets=preset.targets, guidance_scale=preset.guidance_scale, **how)
    np.testing.assert_array_equal(ours("a", **how), usual)

    content = json.loads(pathlib.Path("o/preset.json").read_text())
    content["found_on"]["checkpoint"] = "other sha256:00"
    pathlib.Path("other.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="must be used with the weights"):
        pipeline.MiroPipeline(loaded.trained, 16, "other.json")
    content["rewards"] = ["clip"]
    content["targets"] = {}
    pathlib.Path("other.json").write_text(json.dumps(content))
    status, _, err = run(*plain, "--preset=other.json", "--out=q")
    assert status == 2 and "the preset is for clip" in err and err.count("\n") == 1


@pytest.mark.over_a_second
def test_geneval_and_means_are_objectives_of_the_command(run):
    status, out, err = run(*SEARCH, *QUICK, "--objective=geneval")
    assert status == 0 and "geneval@shapes on 2 fresh prompts" in out, err
    status, out, err = run(*SEARCH[:3], *QUICK, "--objective=beauty,sharpness", "--out=m")
    assert status == 0 and "beauty@shapes1 + sharpness@shapes1 on 2" in out, err


@pytest.mark.parametrize(
    "words, message",
    [
        (("--objective=nothing",), "must be one of .*Or geneval alone"),
        (("--objective=",), "--objective must name a reward, several, or geneval"),
        ((), "--objective"),
        (("--objective=geneval", "--prompt=a dog"), "shapes world, which name .*got 'a dog'"),
        (("--objective=geneval", "--reward-weights=clip=x"), "geneval has no weights"),
        (("--objective=clip", "--reward-weights=x"), "must read NAME=DIR_OR_ID; got 'x'"),
        (("--objective=beauty", "--prompt=a"), "two or more prompts"),
        (("--objective=beauty", "--categories=dogs"), "dogs"),
        (("--objective=beauty", "--guidance-range=2,1"), "LOW,HIGH with LOW <= HIGH"),
    ],
)
def test_bad_arguments_are_one_line_before_anything_is_loaded(run, words, message):
    status, _, err = run("search", *words, "--out=o")
    assert status == 2 and err.count("\n") == 1 and not pathlib.Path("o").exists()
    assert re.search(message, err), err
