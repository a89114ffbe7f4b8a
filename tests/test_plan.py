"""`miro-jax plan`: what it says of memory, hours and money, and what XLA says of the memory."""

import dataclasses
import json
import os
import pathlib
import subprocess
import sys

import pytest

from miro_jax.cli.chips import CHIPS, parse_chips
from miro_jax.evaluate import budget, plan
from miro_jax.evaluate.doctor import latent_shape, read_config
from miro_jax.evaluate.settings import choose, evaluator_of, trained_on_shapes
from miro_jax.models import rin
from miro_jax.models.flops import sampling_flops
from miro_jax.rewards.names import short_name
from miro_jax.train.memory import Layout, StepMemory, smallest_change
from tests.painting import gauges, inputs

ROOT = pathlib.Path(__file__).parent.parent
TINY = ("--config=base:tiny", "--chips=v5e-8")


@pytest.fixture(scope="module")
def memory():
    config = read_config("base:tiny", ["--config.model.rin.num_blocks=2"])
    return StepMemory(config, latent_shape(config))


@pytest.fixture(autouse=True)
def traced_once(memory, monkeypatch):
    """All runs here are of one network, whose memory depends on nothing else of the config."""
    monkeypatch.setattr(budget, "StepMemory", lambda *_: memory)


def facts(capsys, *words):
    assert plan.main([*TINY, "--json", *words]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize(
    "text, wanted",
    [("v5e-16", ("v5e", 16)), ("v5litepod-16", ("v5e", 16)), ("v5p-16", ("v5p", 8)),
     ("v4-32", ("v4", 16)), ("h100-8", ("h100", 8))],
)  # fmt: skip
def test_a_type_of_machines_is_a_chip_and_a_number(text, wanted):
    assert parse_chips(text) == wanted


@pytest.mark.parametrize("text", ["v5e", "v5e-0", "v9-4", "16", "v5p-15"])
def test_an_unknown_type_is_refused_with_those_that_are_known(text, capsys):
    assert plan.main(["--config=base:tiny", f"--chips={text}"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and (
        ("v5e, v5p" in said) or "two a chip" in said or "2 a chip" in said
    )


@pytest.mark.over_a_second
def test_the_text_names_every_stage(capsys):
    assert plan.main([*TINY, "--records=192", "--price=2"]) == 0
    text = capsys.readouterr().out
    for part in ("chips: 8 x v5e", "M parameters", "fits into 14.7 GiB", "train:", "evaluate:"):
        assert part in text
    assert "annotate: not estimated, no model has a network" in text and "checkpoints:" in text


def test_hours_are_work_over_the_chips_rate_and_money_is_hours_times_price(capsys):
    found = facts(capsys, "--mfu=1e-6", "--price=3")
    (train,) = [one for one in found["stages"] if one["name"] == "train"]
    config = read_config("base:tiny")
    assert train["images"] == config.train.num_steps * config.train.batch_size
    rate = 8 * 197e12 * 1e-6
    assert train["hours"] == pytest.approx(train["images"] * train["flops"] / rate / 3600)
    assert train["usd"] == pytest.approx(train["hours"] * 8 * 3)
    assert "as requested" in train["rate"]


def test_a_small_network_trains_no_faster_than_its_host_hands_over_steps(capsys):
    (train,) = [one for one in facts(capsys)["stages"] if one["name"] == "train"]
    steps = read_config("base:tiny").train.num_steps
    assert train["hours"] * 3600 == pytest.approx(steps * budget.HOST_SECONDS)
    assert "a host takes for a step" in train["rate"]


def test_a_chip_of_two_devices_has_the_rate_of_both_and_half_its_memory_in_each(capsys):
    found = facts(capsys, "--chips=tpu7x-16", "--mfu=1e-7")
    (train,) = [one for one in found["stages"] if one["name"] == "train"]
    rate = 8 * 2307e12 * 1e-7
    assert train["hours"] == pytest.approx(train["images"] * train["flops"] / rate / 3600)
    assert found["chips"]["count"] == 8
    assert found["chips"]["usable_bytes"] == pytest.approx(budget.USABLE * 96 * 2**30)
    assert plan.main([*TINY, "--chips=tpu7x-16"]) == 0
    text = capsys.readouterr().out
    assert "8 x tpu7x, 192 GiB each, 2 devices each" in text
    assert "memory of a device (16 x 1, " in text


def test_one_checkpoint_more_than_are_kept_is_stored(capsys):
    found = facts(capsys, "--config.train.keep_checkpoints=4")["disk"]
    assert found["checkpoints"] == 5 * found["a checkpoint"]


@pytest.mark.parametrize(
    "evaluator, unguided", [("geneval", 1), ("reward_scores", 1), ("dials", 0)]
)
def test_only_images_with_guidance_take_two_passes(evaluator, unguided, memory, capsys):
    length = read_config("base:tiny").encoder.caption.max_tokens
    words = [f"--config.evaluate.evaluators=('{evaluator}',)", "--config.sample.num_steps=4"]
    for solver, evaluations in (("euler", 4), ("heun", 7)):
        words.append(f"--config.sample.solver={solver}")
        free, guided = (
            facts(capsys, *words, f"--config.sample.guidance_scale={scale}")["stages"][2]
            for scale in (0.0, 2.0)
        )
        assert guided["images"] == (1 + unguided) * free["images"] > 0
        branch = sampling_flops(memory.network.sizes, length, evaluations)
        branches = [one["images"] * one["flops"] / branch for one in (free, guided)]
        assert branches[0] == pytest.approx(free["images"])
        assert branches[1] == pytest.approx(free["images"] * (2 + unguided))


def test_geneval_is_sampled_with_guidance_and_without():
    config = read_config("base:tiny", ["--config.evaluate.evaluators=('geneval',)"])
    own = config.evaluate
    of_one_scale = own.prompts_per_category * len(own.categories) * own.images_per_prompt
    assert budget.evaluated_images(config) == 2 * of_one_scale


@pytest.mark.parametrize("scale", [0.0, 2.0])
@pytest.mark.parametrize("name", ["base", "base:tiny", "base:baseline", "miro"])
def test_evaluated_images_are_those_that_the_evaluators_draw(name, scale, tmp_path):
    config = read_config(name, [f"--config.sample.guidance_scale={scale}"])
    is_shapes = trained_on_shapes(config, "")
    if not is_shapes:
        config.evaluate.prompts = str(tmp_path / "prompts.txt")
        texts = (f"prompt {n}\n" for n in range(config.evaluate.max_prompts))
        (tmp_path / "prompts.txt").write_text("".join(texts))
    names = [short_name(one) for one in config.rewards]
    given = inputs(config, tmp_path, gauges(names, names)[0])
    chosen = [evaluator_of(one).build(given) for one in choose(config, is_shapes)]
    conditioned = [short_name(one) for one in config.data.train_rewards]
    drawn = sum(one.num_images(conditioned) for one in chosen)
    assert budget.evaluated_images(config) == drawn > 0


def test_prices_are_of_the_table_of_a_file_or_as_given(capsys, tmp_path):
    usd = lambda *words: facts(capsys, *words)["stages"][1]["usd"]  # noqa: E731
    usual = usd()
    file = tmp_path / "prices.json"
    file.write_text(json.dumps({"v5e": 2 * CHIPS["v5e"].price}))
    assert usd(f"--prices={file}") == pytest.approx(2 * usual)
    assert usd(f"--prices={file}", "--price=0") == 0
    assert plan.main(["--config=base:tiny", "--chips=b200-8"]) == 0
    assert "price not known" in capsys.readouterr().out


@pytest.mark.parametrize("content", ['{"v9": 1}', '{"v5e": -1}', '{"v5e": "1"}', "[1]", "{"])
def test_a_bad_file_of_prices_is_refused(content, capsys, tmp_path):
    file = tmp_path / "prices.json"
    file.write_text(content)
    assert plan.main([*TINY, f"--prices={file}"]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_keys_of_the_config_are_changed_as_for_training(capsys):
    found = facts(capsys, "--config.train.num_steps=7", "--config.train.batch_size=32")
    assert found["stages"][1]["images"] == 7 * 32
    assert plan.main([*TINY, "--config.train.batchsize=3"]) == 2
    assert "did you mean train.batch_size" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "text"),
    [
        ("--config.train.batch_size=12", "batch_size must be a multiple of config.train.micro"),
        ("--config.train.microbatches=3", "batch_size must be a multiple of config.train.micro"),
        ("--config.mesh.model=3", "config.mesh.model must divide the"),
        ("--config.mesh.data=4", "config.mesh.data x config.mesh.model must be the"),
    ],
)
def test_what_does_not_divide_over_the_chips_is_a_bad_argument(word, text, capsys):
    assert plan.main([*TINY, word]) == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("sample.targets=3", "config.sample.targets: targets must read NAME=LEVEL"),
        ("sample.num_steps=0", "config.sample.num_steps must be at least 1; got 0"),
        ("optim.name=foo", "config.optim with config.train.num_steps: optimizer must be one of"),
        ("evaluate.evaluators=('x',)", "config.evaluate.evaluators must be"),
        ("rewards=('x',)", "config.rewards"),
    ],
)
def test_a_config_that_training_refuses_is_refused_by_its_key(word, said, capsys):
    assert plan.main([*TINY, f"--config.{word}"]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.over_a_second
def test_a_step_that_does_not_fit_comes_with_the_smallest_change_that_does(
    memory, monkeypatch, capsys
):
    at_once = memory.of(Layout(1), 16)
    less = memory.of(Layout(1, microbatches=4), 16)
    assert less.total < at_once.total
    layout, remat, found = smallest_change(memory, Layout(1), 16, less.total)
    assert (layout.microbatches, remat, found) == (4, "none", less)
    small = dataclasses.replace(CHIPS["v5e"], memory_gib=less.total / budget.USABLE / 2**30)
    monkeypatch.setitem(CHIPS, "v5e", small)
    assert plan.main(["--config=base:tiny", "--chips=v5e-1"]) == 1
    said = capsys.readouterr().out
    assert "DOES NOT FIT" in said and "--config.train.microbatches=4 takes" in said
    monkeypatch.setitem(CHIPS, "v5e", dataclasses.replace(small, memory_gib=1e-4))
    assert plan.main(["--config=base:tiny", "--chips=v5e-1"]) == 1
    assert "take more chips" in capsys.readouterr().out


def test_more_is_computed_again_only_where_microbatches_do_not_help(memory):
    fewest = memory.of(Layout(1), 101, "attention_mlp").total
    assert fewest < memory.of(Layout(1), 101, "block").total < memory.of(Layout(1), 101).total
    layout, remat, _ = smallest_change(memory, Layout(1), 101, fewest)  # a prime number of images
    assert remat == "attention_mlp" and layout.microbatches == 1


def test_devices_share_the_state_and_the_images(memory):
    one, eight = memory.of(Layout(1), 16), memory.of(Layout(8), 16)
    assert one.parameters == eight.parameters
    assert eight.state < one.state / 4 and eight.kept < one.kept


def test_the_rate_is_measured_where_it_was_and_estimated_elsewhere():
    released = read_config("miro")
    sizes = rin.rin_config(released.model, latent_shape(released), 2048, 7)
    at = lambda chips: plan.Settings(config="miro", chips=parse_chips(chips))  # noqa: E731
    share, why = budget.mfu_of(at("h200-8"), sizes)
    assert why.startswith("measured: 508 images/s") and 0.3 < share < 0.4
    share, why = budget.mfu_of(at("v6e-16"), sizes)
    assert share == 0.23 and "from the compiler; not measured on v6e" in why
    assert budget.mfu_of(at("v5e-16"), sizes)[0] == 0.39
    share, why = budget.mfu_of(at("v4-16"), sizes)
    assert share > 0.3 and why.startswith("estimated") and "not measured on v4" in why
    other = dataclasses.replace(sizes, num_blocks=2)
    assert budget.mfu_of(at("h200-8"), other)[1].startswith("estimated")


def test_towers_take_the_share_of_their_chip():
    assert budget.towers_mfu("v6e")[0] < budget.towers_mfu("h200")[0] < budget.towers_mfu("v5e")[0]
    assert "as the compiler expects" in budget.towers_mfu("v5e")[1]
    assert "as towers reach on an NVIDIA H200" in budget.towers_mfu("v4")[1]


def test_the_paper_s_annotation_costs_what_its_cards_say():
    flops, _ = budget.annotation(read_config("miro"), 17.0)
    assert 5e12 < flops < 20e12  # VQAScore alone is most of it
    assert budget.annotation(read_config("base"), 17.0)[0] == 0


def test_second_image_latents_are_part_of_what_annotation_takes():
    """As `miro-jax annotate --plan` counts them."""
    flops, record = budget.annotation(read_config("miro"), 17.0)
    larger = read_config("miro", ["--config.annotate.encode_512=True"])
    more_flops, more_bytes = budget.annotation(larger, 17.0)
    assert more_flops > flops
    assert more_bytes - record == 4 * 64 * 64 * 4  # mean and standard deviation, float16


@pytest.mark.slow
def test_estimates_are_within_a_tenth_of_what_xla_sets_aside_on_1_8_and_16_devices():
    done = subprocess.run(
        [sys.executable, "-m", "tests.planning", "16"],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
    rows = json.loads(done.stdout.splitlines()[-1])
    assert list(rows) == ["1", "8", "16"]
    for devices, row in rows.items():
        assert row["state"] == pytest.approx(row["arguments"], rel=0.01), devices
        assert row["estimate"] == pytest.approx(row["total"], rel=0.1), (devices, row)


def test_of_what_jax_keeps_each_compiler_has_a_share_in_memory():
    config = read_config("miro")
    share = budget.kept_share
    assert share(config, "v6e") == share(config, "v5p") == budget.KEPT_ON_TPU
    assert share(config, "h200") == budget.KEPT_WITH_CUDNN and share(config, "a100") == budget.KEPT
    with config.unlocked():
        config.model.dtype = "float32"
    assert share(config, "v6e") == share(config, "h200") == 1.0
