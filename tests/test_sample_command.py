"""The command line of sampling, with a tiny network from a folder in the released layout."""

import dataclasses
import errno
import json
import os
import pathlib
import re
import signal
import subprocess
import sys
import tempfile

import numpy as np
import pytest
from PIL import Image

from miro_jax import sample
from miro_jax.cli.signals import ENDING
from miro_jax.data.storage import LocalFolder
from miro_jax.models.solvers import SOLVERS
from miro_jax.sample import (
    animation,
    command,
    draw,
    folder,
    pipeline,
    preset,
    settings,
    verbs,
)
from miro_jax.sample.trained import Peeked
from miro_jax.sample.usual import read_usual
from miro_jax.sample.verbs import VERBS
from tests.sampling import NAMES, Launcher, contents, save_tiny
from tests.training import wait_until


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return save_tiny(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def loaded(checkpoint):
    """One pipeline for all tests, so that little is compiled."""
    return pipeline.MiroPipeline.from_pretrained(checkpoint, batch_size=2)


@pytest.fixture
def run(checkpoint, loaded, monkeypatch, capsys, tmp_path):
    """Run a command in an empty folder: (status, stdout, stderr)."""
    monkeypatch.setattr(pipeline, "open_pipeline", lambda flags: loaded)
    monkeypatch.chdir(tmp_path)

    def call(*arguments):
        status = sample.main([*arguments, f"--checkpoint={checkpoint}"])
        return status, *capsys.readouterr()

    return call


def entries(path):
    return json.loads(pathlib.Path(path, "manifest.json").read_text())["images"]


QUICK = ("--prompt=a red circle", "--steps=2", "--guidance-scale=3")


def test_what_a_student_does_not_draw_is_a_bad_argument(run, loaded, monkeypatch, tmp_path):
    config = dataclasses.replace(loaded.trained.config, student=True)
    of_student = dataclasses.replace(loaded.trained, config=config)
    monkeypatch.setattr(loaded, "trained", of_student)
    for words, said in (
        (["isolate", *QUICK], "isolate, tradeoff and explore need its teacher"),
        ([*QUICK, "--negative-prompt=blurry"], "another negative prompt, isolate, tradeoff"),
        ([*QUICK, "--solver=heun"], "samples with the solver euler; got 'heun'"),
    ):
        status, _, err = run(*words, "--out=out")
        assert status == 2 and said in err and not (tmp_path / "out").exists()


@pytest.mark.over_a_second
def test_images_are_what_the_pipeline_draws(run, loaded, checkpoint):
    status, out, err = run(
        *QUICK, "--prompt=b", "--images=3", "--seed=5", "--target=beauty=0.5,count=none", "--out=o"
    )
    assert status == 0 and out == "o\n" and "sample: 6 of 6 images" in err
    found = np.stack([np.asarray(Image.open(f"o/{e['file']}")) for e in entries("o")])
    how = {"num_steps": 2, "guidance_scale": 3.0, "seed": 5, "output_type": "numpy"}
    expected = loaded(["a red circle", "b"], 3, {"beauty": 0.5, "count": None}, **how)
    np.testing.assert_array_equal(found, expected)
    entry = entries("o")[4]
    assert entry["targets"] == {"beauty": 0.5, "count": None, "colors": 1.0}
    assert entry["checkpoint"] == loaded.trained.name and "sha256:" in entry["checkpoint"]
    np.testing.assert_array_equal(sample.remake(loaded, entry), expected[4])
    assert run(*QUICK, "--prompt=b", "--images=3", "--out=o")[0] == 2  # another command


def test_without_a_folder_each_command_has_one_of_its_own(run):
    first = run(*QUICK)[1]
    assert run(*QUICK)[1] == first
    assert run(*QUICK, "--seed=1")[1] != first
    assert first.startswith("samples/a-red-circle-images-")


def test_a_prompt_file_brings_levels_and_seeds(run):
    lines = [{"prompt": "a", "targets": {"count": 0.25}, "seed": 9}, {"prompt": "b"}]
    pathlib.Path("p.jsonl").write_text("\n".join(map(json.dumps, lines)))
    status, _, _ = run(
        "images", "--prompts-file=p.jsonl", "--steps=2", "--out=o", "--target=count=1"
    )
    assert status == 0
    a, b = entries("o")
    assert (a["seed"], a["targets"]["count"]) == (9, 0.25)
    assert (b["seed"], b["targets"]["count"], b["guidance_scale"]) == (0, 1.0, 7.0)


@pytest.mark.parametrize(
    "words, count, files",
    [
        (["isolate", "--rewards=beauty,count"], 4, ["grid.png"]),
        (["tradeoff", "beauty", "count", "--levels=3"], 3, ["grid.png"]),
        (["sweep", "beauty", "--levels=3"], 3, ["grid.png"]),
        (["best", "sharpness", "--candidates=4"], 1, ["curve.svg", "scores.jsonl", "grid.png"]),
        (["loop", "--rewards=beauty,count", "--frames=4", "--format=gif"], 4, ["loop.gif"]),
    ],
)
def test_each_verb_fills_its_folder(run, words, count, files):
    status, out, err = run(*words, *QUICK, "--out=o")
    assert status == 0, err
    listed = entries("o")
    assert len(listed) == count and all(pathlib.Path("o", e["file"]).exists() for e in listed)
    assert all(pathlib.Path("o", name).exists() for name in files)
    same = words[0] in ("isolate", "tradeoff")
    assert {e["negative_prompt"] for e in listed} == {"same" if same else "empty"}
    before = contents("o")
    assert run(*words, *QUICK, "--out=o")[:2] == (0, out)
    assert contents("o") == before


def test_a_run_says_itself_how_it_is_sampled(monkeypatch, capsys, tmp_path):
    asked = []
    usual = {"num_steps": 16, "guidance_scale": 1.5, "solver": "heun", "negative": "same"}
    monkeypatch.setattr(preset, "peek", lambda *_: Peeked(NAMES, usual, read_usual(usual), False))

    def load(flags):
        raise ValueError("far enough")

    monkeypatch.setattr(pipeline, "open_pipeline", load)
    real = command._plan
    monkeypatch.setattr(command, "_plan", lambda *a: asked.append(real(*a)) or asked[-1])
    monkeypatch.chdir(tmp_path)
    for more in ([], ["--steps=3", "--guidance-scale=0", "--solver=euler"]):
        assert sample.main(["--prompt=a", "--checkpoint=run", *more]) == 2
    first, second = (plan.request.settings for plan, _ in asked)
    assert (first.num_steps, first.guidance_scale, first.solver) == (16, 1.5, "heun")
    assert first.negative_prompt == "same"
    assert (second.num_steps, second.guidance_scale, second.solver) == (3, 0.0, "euler")


@pytest.mark.parametrize(
    "words, said",
    [
        (["isolte"], "one of images, isolate, .*; got 'isolte'; did you mean isolate"),
        (
            ["--prompt=a", "--target=beuty=1"],
            "Unknown reward 'beuty'; .* beauty, count, colors; did you mean beauty[?]",
        ),
        (["--prompt=a", "--target=beauty"], "--target: .*NAME=LEVEL"),
        (["--prompt=a", "--target=beauty=high"], "--target: .*number in .0, 1., .*; got 'high'"),
        (
            ["--prompt=a", "--target=beauty=1.5"],
            "--target: .*in .0, 1., where 1 is best; got '1.5'",
        ),
        (["--prompts-file=p.jsonl"], "level of 'beauty' must be .*got 1.5"),
        (["--prompt=a", "--seed=-1"], "--seed: must be at least 0; got '-1'"),
        (["--prompt=a", "--seed=4294967296"], "--seed: must be at most 4294967295"),
        (
            ["--prompt=a", "--out=file/o"],
            "file/o must be a folder that can be written; got: .*it is a file. Give another one.",
        ),
        (
            ["--prompt=a", "--out=/proc/o"],
            "/proc/o must be a folder that can be written; got: No such file or directory. Give",
        ),
        (["--prompt=a", "--stpes=3"], "unknown argument '--stpes=3'; did you mean --steps"),
        (["--num-inference-steps=3"], "'--num-inference-steps=3'; did you mean --steps"),
        (["--num_images_per_prompt=3"], "did you mean --images"),
        (["--reward_targets=beauty=1"], "did you mean --target"),
        (["--prompt=a", "--steps=0"], "--steps: must be at least 1; got '0'"),
        (["--prompt=a", "--images=x"], "--images: must be an integer; got 'x'"),
        (["--prompt=a", "--solver=rk4"], "--solver: must be one of euler, heun, .*; got 'rk4'$"),
        (["--prompt=a", "--dtype=f16"], "--dtype: must be one of .*bfloat16; got 'f16'"),
        (["--prompt=a", "--solver=euller"], "got 'euller'; did you mean euler[?]"),
        (["--prompt=a", "--guidance-scale=nan"], "--guidance-scale: must be finite; got 'nan'"),
        (["--prompt=a", "--guidance-scale=1e38"], "--guidance-scale: must be at most 1000; got"),
        (["--prompt=a", "--target=beauty=1e30"], "--target: .*in .0, 1., .*; got '1e30'"),
        (["--prompt=a", "--target=beauty=nan"], "--target: .*in .0, 1., .*; got 'nan'"),
        (["--prompt=a", "--negative-target=beauty=-5"], "--negative-target: .*; got '-5'"),
        (["--prompt=a", "--guidance-interval=1,0"], "--guidance-interval: must be LOW,HIGH"),
        (["--prompt=a", "--variant=no_clip"], "has no folder 'miro-no-clip'"),
        (["--prompts-file=none.txt"], "none.txt must be a file of prompts"),
        ([], "at least one prompt must be given"),
        (["tradeoff", "beauty", "--prompt=a"], "required: B"),
        (["tradeoff", "beauty", "x", "--prompt=a"], "Unknown reward 'x'"),
        (["--prompt=\udcff"], "--prompt: a prompt must be whole characters; it has half of one"),
        (["isolate", "--rewards=beauty,beauty", "--prompt=a"], "must be different ones; got"),
        (["sweep", "x", "--prompt=a"], "Unknown reward 'x'; this model knows: beauty, .*[a-z][.]$"),
        (["sweep", "cuont", "--prompt=a"], "Unknown reward 'cuont'.*; did you mean count[?]"),
        (["sweep", "beauty", "--levels=1", "--prompt=a"], "--levels: must be at least 2; got '1'"),
        (["best", "x", "--prompt=a"], "reward must be one of clip, .*; got 'x'"),
        (["best", "beauty", "--reward-weights=w", "--prompt=a"], "'beauty' has no weights"),
        (["loop", "--rewards=x", "--prompt=a"], "Unknown reward 'x'"),
    ],
)
def test_a_bad_argument_is_one_line_and_reads_no_weights(
    checkpoint, monkeypatch, capsys, tmp_path, words, said
):
    def load(flags):
        raise AssertionError("weights are read")

    monkeypatch.setattr(pipeline, "open_pipeline", load)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "p.jsonl").write_text('{"prompt": "a", "targets": {"beauty": 1.5}}')
    assert sample.main([*words, f"--checkpoint={checkpoint}"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1 and err.startswith("miro-jax sample: error: ")
    assert re.search(said, err), err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "p.jsonl"]


@pytest.mark.parametrize("verb", [*VERBS, None])
def test_help_shows_all_flags_with_their_defaults_and_an_example(capsys, verb):
    assert sample.main([*([verb] if verb else []), "--help"]) == 0
    out, err = capsys.readouterr()
    assert err == "" and "example:" in out and "Exit status:" in out
    for name in VERBS:
        assert f"\n  {name} " in out
    flags = ("checkpoint", "prompt", "prompts-file", "target", "negative-target", "steps", "out")
    for flag in flags:
        assert f"--{flag}" in out
    assert "default: nicolas-dufour/miro" in out and "or 50" in out and "or 7" in out


def test_help_and_bad_flags_import_no_jax():
    program = """
import sys
from miro_jax.sample import command
print(command.main(["--help"]), command.main(["--prompt=a", "--steps=0"]), "jax" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "0 2 False", done.stderr
    assert settings.SOLVERS == tuple(SOLVERS) and verbs.ANIMATIONS == tuple(animation.FORMATS)


@pytest.mark.parametrize(
    "words, other, said",
    [
        (["sweep", "beauty"], ["sweep", "count"], 'rewards is ."beauty". there, ."count". here'),
        (["sweep", "beauty"], ["sweep", "beauty", "--levels=3"], "levels is 5 there, 3 here"),
        (["isolate"], ["isolate", "--rewards=count"], 'rewards is .*"colors". there, ."count".'),
        (["loop"], ["loop", "--frames=5"], "frames is 36 there, 5 here"),
        (
            ["--prompts-file=a.jsonl"],
            ["--prompts-file=b.jsonl"],
            "of_prompts.0.targets.beauty is 0.25 there, 0.5 here",
        ),
    ],
)
def test_another_command_in_a_folder_is_refused_by_what_differs(
    checkpoint, monkeypatch, capsys, tmp_path, words, other, said
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(pipeline, "open_pipeline", lambda options: 1 / 0)
    for name, level in (("a", 0.25), ("b", 0.5)):
        line = {"prompt": "a", "targets": {"beauty": level}}
        pathlib.Path(f"{name}.jsonl").write_text(json.dumps(line))
    more = [f"--checkpoint={checkpoint}", "--out=o"]
    more += [] if "prompts" in words[0] else ["--prompt=a"]
    plan, _ = command._plan(*command._parse([*words, *more]))
    with folder.open_folder(plan.out, plan.facts, plan.sheet.files):
        pass
    assert sample.main([*other, *more]) == 2
    err = capsys.readouterr().err
    assert re.search(said, err) and "sha256" not in err, err


def test_a_folder_whose_manifest_does_not_name_what_was_varied_is_still_refused(tmp_path):
    """As an earlier version wrote it: the digest of all images differs."""
    asked = sample.ask(NAMES, "a")
    facts = [verbs.Sweep(name).sheet(asked) for name in ("beauty", "count")]
    here, there = (asked.describe("sweep", sheet.images) for sheet in facts)
    with folder.open_folder(tmp_path, here, []):
        pass
    folder.check_folder(tmp_path, here | {"levels": 5})
    with pytest.raises(ValueError, match="pictures_sha256 is"):
        folder.check_folder(tmp_path, there | {"levels": 5})


@pytest.fixture(scope="module")
def launcher():
    launcher = Launcher()
    yield launcher
    launcher.close()


def test_as_a_program_a_bad_name_touches_no_device(launcher, checkpoint, tmp_path):
    """jax has no platform to start there: a device would give another status."""
    words = ["--prompt=a", f"--checkpoint={checkpoint}", f"--out={tmp_path / 'o'}"]
    found = []
    for verb in (["sweep", "beuty"], ["sweep", "beauty"]):
        launcher.start(*verb, *words, platforms="none")
        found.append(launcher.wait())
    assert found == [2, 1]
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_gives_status_1_the_path_and_what_to_do(run, monkeypatch):
    def full(self, name, data, durable=True):
        path = self.path / name
        if path.name.startswith("0"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return real(self, name, data, durable)

    real = LocalFolder.write
    with monkeypatch.context() as patch:
        patch.setattr(LocalFolder, "write", full)
        status, out, err = run(*QUICK, "--out=o")
    last = err.splitlines()[-1]
    assert status == 1 and out == "" and "the disk is full: o/0000-a-red-circle-0.png" in last
    assert "Make room; the same command then resumes" in last
    assert run(*QUICK, "--out=o")[0] == 0


def test_a_failure_on_the_way_gives_status_1_and_the_next_call_goes_on(run, loaded, monkeypatch):
    real = draw.draw
    drawn = []

    def fail(*arguments):
        drawn.append(0)
        if len(drawn) == 2:
            raise OSError("the disk is full")
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(draw, "draw", fail)
        status, out, err = run(*QUICK, "--images=6", "--out=o")
    assert (
        status == 1
        and out == ""
        and "the disk is full. Finished work is kept" in err.splitlines()[-1]
    )
    there = {path: path.stat().st_mtime_ns for path in pathlib.Path("o").glob("0*.png")}
    assert len(there) == 2
    assert run(*QUICK, "--images=6", "--out=o")[0] == 0
    assert {path: path.stat().st_mtime_ns for path in there} == there and len(entries("o")) == 6


@pytest.mark.slow
def test_a_command_that_is_stopped_goes_on_to_the_same_bytes(launcher, checkpoint, tmp_path):
    """By each signal, kill -9 included, against a process that nobody disturbed."""
    words = ("--prompt=a red circle", "--prompt=b", "--images=8", "--steps=40", "--batch-size=2")

    def start(out):
        return launcher.start(*words, f"--checkpoint={checkpoint}", f"--out={out}")

    start(tmp_path / "whole")
    assert launcher.wait() == 0
    expected = contents(tmp_path / "whole")
    assert len(expected) == 18
    for number in (signal.SIGKILL, *ENDING):
        out = tmp_path / number.name
        pid = start(out)
        if wait_until(lambda out=out: len(list(out.glob("0*.png"))) >= 3, pid):
            os.kill(pid, number)
        status = launcher.wait()
        assert status == (-number if number == signal.SIGKILL else 128 + number)
        assert not (out / "manifest.json").exists()
        kept = {path: path.stat().st_mtime_ns for path in out.glob("0*.png")}
        start(out)
        assert launcher.wait() == 0 and contents(out) == expected
        assert len(kept) >= 3 and all(p.stat().st_mtime_ns == then for p, then in kept.items())


def test_a_complete_folder_may_be_read_only(run, tmp_path, monkeypatch):
    words = ["--prompt=a", "--steps=1", "--out=images"]
    assert run(*words)[0] == 0
    before = contents(tmp_path)

    def refuse(*_, **__):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr(tempfile, "TemporaryFile", refuse)
    monkeypatch.setattr(folder, "locked", refuse)
    assert run(*words)[0] == 0 and contents(tmp_path) == before
    (tmp_path / "images" / "manifest.json").unlink()
    status, _, err = run(*words)
    assert status == 2 and "must be a folder that can be written" in err
