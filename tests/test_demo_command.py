"""`miro-jax demo`: mistakes end it before a device is touched; a studio draws and measures."""

import importlib.util
import json
import socket

import numpy as np
import pytest

from configs import base as configs
from miro_jax.cli.exit import UsageError
from miro_jax.demo import command, figures, studio
from miro_jax.demo.form import make_form, to_values
from miro_jax.demo.options import Options
from tests import demoing, sampling


@pytest.fixture
def run(tmp_path):
    """The folder of a run, as far as `plan` looks."""
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "config.json").write_text(configs.get_config("tiny").to_json())
    return tmp_path


def refused(capsys, *words):
    assert command.main(words) == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_a_missing_extra_is_one_line_with_what_to_install(run, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    said = refused(capsys, f"--checkpoint={run}")
    assert "needs gradio" in said and "pip install 'miro_jax[demo]'" in said


def test_mistakes_are_one_line(run, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    assert "there is no folder" in refused(capsys, f"--checkpoint={run / 'none'}")
    assert "'clop'" in refused(capsys, f"--checkpoint={run}", "--rewards=clop")
    assert "preset.json" in refused(capsys, f"--checkpoint={run}", f"--preset={run}/preset.json")
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        said = refused(capsys, f"--checkpoint={run}", f"--port={port}")
    assert f"--port must be free on 127.0.0.1; got {port}" in said


def test_a_missing_file_of_a_run_s_own_reward_is_refused_at_once(run, capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"rewards": ["missing.py:Redness"]}))
    said = refused(capsys, f"--checkpoint={run}")
    assert "missing.py, the file of a reward" in said and "--rewards=none" in said
    studio.check_options(Options(str(run), rewards=("none",)))


def test_a_host_of_another_machine_is_named(run, capsys, monkeypatch):
    def nowhere(*_, **__):
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(importlib.util, "find_spec", lambda name: True)
    said = refused(capsys, f"--checkpoint={run}", "--host=192.0.2.1")  # of no machine: RFC 5737
    assert "--host must be an address of this machine; got 192.0.2.1: Cannot" in said
    monkeypatch.setattr(socket, "getaddrinfo", nowhere)
    said = refused(capsys, f"--checkpoint={run}", "--host=there")
    assert "--host must be an address of this machine; got there: Name or" in said


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_a_free_port_of_either_family_is_taken_and_a_used_one_refused(host):
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as taken:
        taken.bind((host, 0))
        port = taken.getsockname()[1]
        taken.listen()
        with pytest.raises(UsageError, match=f"--port must be free on {host}; got {port}: "):
            command._check_address(host, port)
    command._check_address(host, port)


def test_only_rewards_without_weights_measure_unasked(run):
    loaded = studio.load_measures(Options(str(run)), run)
    assert len(loaded) == 7 and loaded[0].name == "sharpness"
    assert studio.load_measures(Options(str(run), rewards=("none",)), run) == ()
    assert studio.load_measures(Options("nicolas-dufour/miro"), None) == ()


def test_measured_levels_are_those_of_training():
    made = demoing.make_studio()
    made.measures, made.__class__ = (
        studio.rewards.load_rewards(["sharpness", "beauty"]),
        studio.Studio,
    )
    bins = demoing.make_bins(("other", "beauty"))
    names = ("other@1", made.measures[1].identity)
    made.bins = studio.dataclasses.replace(bins, names=names)
    images = np.random.default_rng(0).integers(0, 255, (3, 16, 16, 3)).astype(np.uint8)
    scores, levels = made._measure(images, made.usual)
    assert scores.keys() == {"sharpness", "beauty"} and levels.keys() == {"beauty"}
    np.testing.assert_allclose(
        levels["beauty"], np.clip(scores["beauty"], 0, 1), atol=0.5 / 63 + 1e-6
    )


@pytest.mark.slow
def test_a_studio_of_a_release_draws_what_the_pipeline_does(tmp_path):
    folder = sampling.save_tiny(tmp_path / "release")
    made = studio.open_studio(Options(str(folder), most_images=4))
    assert list(made.presets) == ["all at their best", "not conditioned"]
    assert made.first is not None and made.first.form == made.usual
    values = {"prompt": "a fox", "num_images": 3, "num_steps": 4, "guidance_scale": 2.0}
    levels = {"targets": {"beauty": None}, "negative_targets": {"count": 0.5}}
    form = make_form(made.pipe.reward_names, values | levels)
    begun = compiled(made)
    *_, drawn = made.draw(form)
    assert compiled(made) == begun  # no value of a form compiles
    call = to_values(form)
    images = made.pipe(call.pop("prompt"), output_type="numpy", **call)
    assert np.abs(drawn.images.astype(int) - images).max() <= 1
    assert drawn.scores == drawn.levels == {} and not drawn.notes
    *_, drawn = made.draw(make_form(made.pipe.reward_names, values | {"prompt": "a b " * 5}))
    page = figures.show_drawn(drawn)
    assert page.count("A prompt has 11 tokens and the network sees 8; its end is cut") == 1


def compiled(made):
    """How many programs steps have."""
    return [part._cache_size() for pair in made.pipe._steppers._made.values() for part in pair]


@pytest.mark.parametrize("where", ["open_studio", "build_page"])
def test_a_signal_at_any_time_ends_the_demo_without_a_word_of_resuming(monkeypatch, capsys, where):
    def interrupt(*_):
        raise KeyboardInterrupt

    module = command.demo.studio if where == "open_studio" else command.demo.page
    monkeypatch.setattr(command, "_plan", lambda _: Options("runs/base"))
    monkeypatch.setattr(command.demo.page, "load_components", lambda: None)
    monkeypatch.setattr(command.demo.studio, "open_studio", lambda _: None)
    monkeypatch.setattr(module, where, interrupt)
    assert command.main([]) == 0
    err = capsys.readouterr().err
    assert err.endswith("demo: stopped\n") and "resume" not in err
