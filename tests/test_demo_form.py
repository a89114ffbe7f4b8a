"""What leaves the demo's page: JSON that restores, Python and a command that draw the same."""

import json
import shlex

import pytest

from miro_jax.demo import form as forms
from miro_jax.sample import command
from tests.sampling import NAMES

VALUES = {
    "prompt": "a 'red'  circle\n& \"more\" <b>",
    "num_images": 3,
    "seed": 7,
    "targets": {"beauty": 0.25, "count": None, "colors": 1.0},
    "negative_targets": {"beauty": 0.0, "count": 0.5, "colors": None},
    "guidance_scale": 2.5,
    "guidance_interval": (0.25, 1.0),
    "num_steps": 12,
    "solver": "heun",
    "negative_prompt": "same",
    "guidance_rule": "apg:eta=0.5",
    "guidance_schedule": "linear",
}


def make(**changes):
    return forms.make_form(NAMES, VALUES | changes)


def test_json_restores_all_settings():
    form = make()
    assert forms.to_values(form) == VALUES
    text = forms.write_json(form)
    assert "\n" not in text
    assert forms.read_json(text, NAMES) == form


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"prompt": "  "}, "a prompt is needed"),
        ({"num_images": 65}, r"num_images must be in 1..64; got 65"),
        ({"targets": {"beuty": 1.0}}, "Unknown reward 'beuty'"),
        ({"targets": {"beauty": 2.0}}, "number in"),
        ({"seed": -1}, "seed must be in"),
        ({"seed": "x"}, "seed"),
        ({"solver": "rk4"}, "euler, heun, dpmpp_2m"),
        ({"steps": 3}, "the settings may have prompt, .*; got steps"),
        ({"guidance_interval": [1, 0]}, "guidance_interval"),
        ({"negative_prompt": 5}, "negative_prompt"),
    ],
)
def test_what_cannot_be_is_refused(changes, said):
    text = json.dumps(VALUES | changes)
    with pytest.raises(ValueError, match=said):
        forms.read_json(text, NAMES)


@pytest.mark.parametrize("text", ["", "{", "[]", '"x"', "{}", "x" * 30_000, '{"prompt": NaN}'])
def test_foreign_text_is_refused(text):
    with pytest.raises(ValueError, match="the settings"):
        forms.read_json(text, NAMES)


def test_python_asks_for_the_same(tmp_path):
    calls = []

    class Pipeline:
        @classmethod
        def from_pretrained(cls, *where):
            calls.append(where)
            return lambda prompt, **call: calls.append((prompt, call))

    text = forms.to_python(make(), "runs/base", "no_clip")
    exec(text.replace("from miro_jax import MiroPipeline", ""), {"MiroPipeline": Pipeline})
    where, (prompt, call) = calls
    assert where == ("runs/base", "no_clip")
    assert forms.make_form(NAMES, {"prompt": prompt} | call) == forms.make_form(
        NAMES, VALUES | {"targets": {"beauty": 0.25, "count": None}}
        | {"negative_targets": {"count": 0.5, "colors": None}},
    )  # fmt: skip


def test_how_the_network_was_loaded_stands_in_the_call_and_in_the_command():
    loading = {"dtype": "bfloat16", "text_encoder": "my t5"}
    text = forms.to_python(make(), "runs/base", "no_clip", loading=loading)
    said = "from_pretrained('runs/base', 'no_clip', dtype='bfloat16', text_encoder='my t5')"
    assert said in text
    words = shlex.split(forms.to_command(make(), "runs/base", loading=loading))
    _, flags = command._parse(words[2:])
    assert (flags.dtype, flags.text_encoder, flags.vae) == ("bfloat16", "my t5", None)


def test_a_call_of_usual_levels_names_none():
    usual = {"targets": {}, "negative_targets": {}}
    assert "targets" not in forms.to_python(make(**usual), "runs/base")
    assert "target" not in forms.to_command(make(**usual), "runs/base")


def test_the_command_asks_for_the_same():
    words = shlex.split(forms.to_command(make(), "runs/my base"))
    assert words[:2] == ["miro-jax", "sample"]
    _, flags = command._parse(words[2:])
    assert flags.checkpoint == "runs/my base"
    given = {"targets": {}, "negative_targets": {}}
    for key, merged in given.items():
        for part in getattr(flags, key):
            merged |= part
    names = [f.name for f in forms.dataclasses.fields(forms.Settings)]
    values = {name: getattr(flags, name) for name in names} | given
    values |= {"prompt": flags.prompt[0], "num_images": flags.num_images, "seed": flags.seed}
    assert forms.to_values(forms.make_form(NAMES, values)) == VALUES


@pytest.mark.parametrize("bins", [1, 2, 4, 64])
def test_levels_are_those_of_training(bins):
    top = max(bins - 1, 1)
    for k in range(top + 1):
        assert forms.snap(round(k / top, 3), bins) == k / top
