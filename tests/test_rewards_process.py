"""Rewards of a program in a process of its own: what it is told, answers, and does wrong."""

import gc
import json
import os
import pathlib
import re
import shlex
import sys

import numpy as np
import pytest
from PIL import Image

from miro_jax import main as entry
from miro_jax import rewards
from miro_jax.annotate.__main__ import main as annotate
from miro_jax.data.records.manifest import Manifest, same_models
from miro_jax.models import sharding
from miro_jax.rewards import base, contract, process, side_process
from miro_jax.rewards.names import is_own, is_process, parse_names, short_name
from miro_jax.rewards.side_process import Hello, Scorer, ScorerFailed
from miro_jax.sample.command import main as sample
from miro_jax.score import main as score
from tests import training
from tests.annotating import read_records
from tests.networks import small_mesh
from tests.scoring import read_rows

ROOT = pathlib.Path(__file__).parent.parent

# What scorers share: they say who they are, and answer each batch with `answer`.
HEAD = """
import json, struct, sys, zlib
me = {"miro_scorer": 1, "name": "mine", "version": "2", "needs_caption": True}
def say(value):
    print(json.dumps(value), flush=True)
def run(judge, **more):
    say(me | more)
    for line in sys.stdin:
        asked = json.loads(line)
        try:
            say({"batch": asked["batch"], "scores": judge(asked["images"], asked["captions"])})
        except Exception as error:
            say({"batch": asked["batch"], "error": str(error)})
def size(path):
    return struct.unpack(">II", open(path, "rb").read(24)[16:])
"""
GOOD = """
def judge(images, captions):
    with open(__file__ + ".log", "a") as log:
        log.write(f"{len(images)}\\n")
    return [size(i)[0] + size(i)[1] / 1000 + len(c) / 16 for i, c in zip(images, captions)]
run(judge, stored_divisor=10, stored_offset=1, batch_size=2)
"""


@pytest.fixture
def make(tmp_path, monkeypatch):
    """Return the name of a reward whose program is HEAD and a text."""
    monkeypatch.setattr(side_process, "_END_SECONDS", 0.2)

    def make(text, file="mine.py", words=""):
        path = tmp_path / file
        path.write_text(HEAD + text)
        return f"process:{shlex.quote(sys.executable)} {path}{words}"

    return make


def images(count=3):
    rng = np.random.default_rng(0)
    return [rng.integers(0, 256, (40 + i, 50, 3), dtype=np.uint8) for i in range(count)]


def asked(tmp_path):
    return [*map(int, (tmp_path / "mine.py.log").read_text().split())]


def test_names_of_commands():
    name = "process:/env/bin/python a/HPSv3.py --gpu=1"
    assert is_process(name) and not is_own(name) and short_name(name) == "hpsv3"
    assert short_name("process:/opt/my-scorer.sh x") == "my_scorer"
    assert parse_names(f"beauty,{name}") == ("beauty", name)


def test_it_scores_images_of_every_size_each_distinct_pair_once(make, tmp_path):
    name = make(GOOD)
    reward = rewards.load_reward(name)
    assert reward.identity == f"mine@2-{process.digest(name)}"
    assert same_models([reward.identity], [rewards.label(name)])
    assert not rewards.card_of(name) and not rewards.has_weights(name)
    assert "unknown" in rewards.why_not_commercial(name)
    some = images()
    scores = reward.score([*some, some[0]], ["a", "bb", "c", "a"])
    assert scores.tolist() == pytest.approx([50.1025, 50.166, 50.1045, 50.1025])
    assert asked(tmp_path) == [2, 1]
    np.testing.assert_allclose(reward.stored(scores), (scores + 1) / 10, rtol=1e-6)
    contract.check_reward(reward)


def test_one_process_serves_all_who_load_it_and_ends_with_the_last(make):
    name = make(GOOD)
    first, second = rewards.load_rewards([name])[0], rewards.load_reward(name)
    assert second._scorer is first._scorer
    pid = first._scorer._process.pid
    del first
    os.kill(pid, 0)
    del second
    gc.collect()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)


def test_a_table_starts_it_once(make, tmp_path):
    """What it loads after its hello is not loaded again, and nothing waits for its end."""
    name = make(f"open(__file__ + '.starts', 'a').write('x')\n{GOOD}")
    (tmp_path / "images").mkdir()
    Image.fromarray(images(1)[0]).save(tmp_path / "images" / "a.png")
    (tmp_path / "images" / "a.txt").write_text("a fox")
    assert (
        score([str(tmp_path / "images"), f"--rewards={name}", f"--out={tmp_path / 'a.csv'}"]) == 0
    )
    assert (tmp_path / "mine.py.starts").read_text() == "x"
    gc.collect()
    assert not any(scorer.close.alive for scorer in process._RUNNING.values())


def test_the_file_and_the_words_after_it_are_the_identity(make, tmp_path):
    before = process.digest(make(GOOD))
    assert process.digest(make(GOOD, words=" --gpu=1")) != before
    assert process.digest(make(GOOD).replace("process:", "process:env ")) == before
    assert process.digest(make(GOOD + "#")) != before
    (tmp_path / "weights").write_text("1")
    one = make(GOOD, words=f" {tmp_path / 'weights'}")
    before = process.digest(one)
    (tmp_path / "weights").write_text("2")
    assert process.digest(one) != before


BROKEN = {
    "crash": ("run(lambda i, c: (print('no CUDA', file=sys.stderr), sys.exit(3)))",),
    "at once": ("sys.exit('no torch')",),
    "hang": ("import time; run(lambda i, c: time.sleep(60), timeout_seconds=0.2)",),
    "deaf": ("say(me | {'timeout_seconds': 0.2})\nimport time; time.sleep(60)",),
    "count": ("run(lambda i, c: [1.0])",),
    "nan": ("run(lambda i, c: [1.0, float('nan'), 2])",),
    "text": ("run(lambda i, c: [1, 2, '3'])",),
    "garbage": ("say(me)\nsys.stdin.readline()\nprint('Loading checkpoint 50%', flush=True)",),
    "list": ("say(me)\nsys.stdin.readline()\nsay([1, 2, 3])",),
    "other batch": ("say(me)\nsys.stdin.readline()\nsay({'batch': 7, 'scores': [1, 2, 3]})",),
    "error": ("def judge(i, c):\n    raise ValueError('too dark')\nrun(judge)",),
    "key": ("run(None, scale=2, bias=1)",),
    "kind": ("run(None, needs_caption=1)",),
    "protocol": ("run(None, miro_scorer=2)",),
    "divisor": ("run(None, stored_divisor=0)",),
    "size": ("run(None, batch_size=True)",),
    "form": ("run(None, synthetic_form='medium')",),
    "infinite": ("run(None, stored_offset=float('inf'))",),
}
SAID = {
    "crash": "ended with status 3 at batch 0; the end of its stderr: no CUDA; images: ",
    "at once": "ended with status 1 before its first line; the end of its stderr: no torch. Run it",
    "hang": "did not answer for 0.2 s at batch 0; its stderr is empty; images: ",
    "deaf": "did not answer for 0.2 s at batch 0",
    "count": "must answer batch 0 with 3 scores; it gave 1;",
    "nan": r"must give finite numbers or null; images\[1\] of batch 0 got nan;",
    "text": r"images\[2\] of batch 0 got '3';",
    "garbage": "one JSON object a line.*at batch 0 it wrote 'Loading checkpoint 50%'",
    "list": r"one JSON object a line.*it wrote '\[1, 2, 3\]'",
    "other batch": "must answer batch 0; it answered batch 7",
    "error": "gave up batch 0: too dark;",
    "key": "must begin with a hello: its keys must be of name, version, .*; got bias, scale",
    "kind": "needs_caption must be true or false; got 1",
    "protocol": "miro_scorer must be 1; got 2",
    "divisor": "stored_divisor must be above 0; got 0",
    "form": "synthetic_form must be one of long, short; got 'medium'",
    "infinite": "stored_offset must be finite; got inf",
    "size": "batch_size must be an integer; got true",
}


@pytest.mark.parametrize("case", BROKEN)
def test_what_a_scorer_does_wrong_is_told_by_name(make, case):
    name = make(BROKEN[case][0])
    with pytest.raises(ScorerFailed, match=SAID[case]) as caught:
        rewards.load_reward(name).score(images(), ["a caption" * 20000] * 3)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_scorer_that_does_not_begin_is_ended(make):
    words = [sys.executable, "-c", "import time; time.sleep(60)"]
    make("")
    with pytest.raises(ScorerFailed, match="slow did not answer for 0.1 s before its first line"):
        Scorer(words, "slow", hello_seconds=0.1)


def test_a_scorer_that_begins_late_is_named_while_it_is_waited_for(make, monkeypatch, capsys):
    monkeypatch.setattr(side_process, "_QUIET_SECONDS", 0.05)
    words = [sys.executable, "-c", "import time; time.sleep(60)"]
    with pytest.raises(ScorerFailed, match="did not answer"):
        Scorer(words, "slow", hello_seconds=0.5)
    waited = "waiting for the first line of the scorer slow, 0.5 s at most"
    assert capsys.readouterr().err.count(waited) == 1


def test_a_program_takes_no_weights(make):
    with pytest.raises(ValueError, match="mine.py takes no weights: its program has its own"):
        rewards.load_reward(make(GOOD), weights="folder")


def test_a_missing_score_is_one_only_where_it_may_be(make):
    null = "run(lambda i, c: [None] * len(i), may_be_missing={})"
    reward = rewards.load_reward(make(null.format(True)))
    assert np.isnan(reward.score(images(), ["a"] * 3)).all()
    reward = rewards.load_reward(make(null.format(False)))
    with pytest.raises(FloatingPointError, match=r"mine gives images\[0\] nan"):
        reward.score(images(), ["a"] * 3)


def test_a_hello_without_a_version_is_refused():
    with pytest.raises(ValueError, match="version is missing"):
        Hello.parse({"miro_scorer": 1, "name": "mine", "needs_caption": True})


@pytest.mark.parametrize(
    ("name", "error", "said"),
    [
        ("process:", ValueError, "must be process:COMMAND, such as"),
        ("process:python 'a.py", ValueError, "must be process:COMMAND; its command has No closing"),
        ("process:no-such-program a.py", FileNotFoundError, "no-such-program, the program of"),
        ("process:sh nowhere/a.py", FileNotFoundError, "nowhere/a.py, the scorer of"),
        ("process:sh 3d.py", ValueError, "must begin with a letter; got '3d'"),
    ],
)
def test_what_is_no_command_is_refused_before_it_is_started(name, error, said):
    with pytest.raises(error, match=said):
        rewards.check_names([name])


def test_a_folder_is_scored_by_it_and_the_manifest_says_by_whom(make, tmp_path, capsys):

    (tmp_path / "images").mkdir()
    for number, image in enumerate(images()):
        Image.fromarray(image).save(tmp_path / "images" / f"{number}.png")
        (tmp_path / "images" / f"{number}.txt").write_text("a fox")
    name = make(GOOD)
    table = tmp_path / "scores.jsonl"
    arguments = [str(tmp_path / "images"), f"--rewards={name},mine2", f"--out={table}"]
    assert score(arguments) == 2
    arguments[1] = f"--rewards={name}"
    assert score(arguments) == 0, capsys.readouterr().err
    identity = f"mine@2-{process.digest(name)}"
    assert [row[identity] for row in read_rows(table)] == pytest.approx([50.3525, 50.3535, 50.3545])
    summary = json.loads((tmp_path / "scores.jsonl.summary.json").read_text())
    (tower,) = summary["command"]["towers"]
    assert tower.startswith("process:mine.py") and '"stored_divisor": 10' in tower
    assert max(asked(tmp_path)) <= 2 and sum(asked(tmp_path)) == 3


def test_it_scores_beside_others_with_several_sets_of_captions(make, tmp_path):
    """As sampling, evaluation and search score: images of one size, all rewards together."""
    both = rewards.load_rewards([make(GOOD), "sharpness"])
    some = np.stack([np.full((32, 32, 3), shade, np.uint8) for shade in (0, 90, 0)])
    sets = [{"caption": ["a", "b", "a"]}, {"long": ["a fox"] * 3, "short": ["b"] * 3}]
    first, second = base.score_all(both, some, sets)
    np.testing.assert_allclose(first[:, 0], (32.032 + 1 / 16 + 1) / 10, rtol=1e-6)
    np.testing.assert_allclose(second[:, 0], (32.032 + 5 / 16 + 1) / 10, rtol=1e-6)
    np.testing.assert_array_equal(first[:, 1], second[:, 1])
    assert sum(asked(tmp_path)) == 4  # two distinct pairs of each set


def test_a_scorer_that_dies_fails_the_command_in_one_line(make, tmp_path, capsys):

    Image.fromarray(images()[0]).save(tmp_path / "a.png")
    name = make("run(lambda i, c: sys.exit('out of memory'), needs_caption=False)")
    out = tmp_path / "scores.csv"
    assert score([str(tmp_path / "a.png"), f"--rewards={name}", f"--out={out}"]) in (1, 2)
    assert score([str(tmp_path), f"--rewards={name}", f"--out={out}"]) == 1
    last = capsys.readouterr().err.splitlines()[-1]
    assert "ended with status 1 at batch 0; the end of its stderr: out of memory" in last


def test_the_example_of_the_guide_scores(tmp_path, monkeypatch):
    """With a stand-in for HPSv3 that prints to stdout, as its libraries do."""
    guide = (ROOT / "docs/add_a_reward.md").read_text("utf-8")
    program = next(code for code in guide.split("```python\n") if "HPSv3RewardInferencer" in code)
    (tmp_path / "hpsv3.py").write_text(
        program.partition("```")[0].replace("from hpsv3", "from model")
    )
    (tmp_path / "model.py").write_text(
        "class HPSv3RewardInferencer:\n"
        "    def __init__(self, device):\n"
        "        print('loading')\n"
        "    def reward(self, prompts, image_paths):\n"
        "        assert len(prompts) == len(image_paths)\n"
        "        return [(len(prompt), 0.1) for prompt in prompts]\n"
    )
    reward = rewards.load_reward(f"process:{sys.executable} {tmp_path / 'hpsv3.py'}")
    assert reward.score(images(), ["a", "bb", "ccc"]).tolist() == [1, 2, 3]
    assert reward.identity.startswith("hpsv3@1-")


def test_records_are_annotated_by_it_at_their_own_size(make, tmp_path):
    """Though the image encoder takes squares."""
    source = tmp_path / "images"
    source.mkdir()
    for number, image in enumerate(images()):
        Image.fromarray(image).save(source / f"{number}.png")
        (source / f"{number}.txt").write_text("a fox")
    arguments = [f"--source=folder:{source}", f"--rewards=beauty,{make(GOOD)}"]
    arguments += ["--image-encoder=pixels:size=32", "--caption-encoder=words", "--num-bins=2"]
    arguments += [f"--out={tmp_path / 'records'}"]
    assert annotate(arguments) == 0
    manifest = Manifest.load(tmp_path / "records")
    assert manifest.rewards[1] == f"mine@2-{process.digest(make(GOOD))}"
    records = read_records(tmp_path / "records").values()
    stored = sorted(float(record.scores[1]) for record in records)
    assert stored == pytest.approx([(s + 1) / 10 for s in (50.3525, 50.3535, 50.3545)])


CHANGING = """
run(lambda i, c: [zlib.crc32(open(p, "rb").read() + t.encode()) / 2**32 for p, t in zip(i, c)])
"""


@pytest.mark.slow
def test_it_goes_through_every_stage(make, tmp_path, monkeypatch, capsys, no_flush):
    """Annotated, conditioned on, asked for by its short name, evaluated, the judge of best-of-N."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sharding, "make_mesh", lambda *_: small_mesh())
    name = make(CHANGING)
    names = ("beauty", name)
    changes = training.SMALL | {
        "rewards": names,
        "data.train_rewards": names,
        "source.shapes.num_images": 64,
        "source.shapes.images_per_shard": 64,
        "annotate.num_bins": 8,
        "train.sample_every_steps": 0,
        "train.num_steps": 2,
        "optim.warmup_steps": 0,
        "sample.prompts": ("a red circle", "a square"),
        "sample.targets": "mine=0.8",
        "evaluate.evaluators": ("reward_scores",),
    }
    arguments = [training.TINY, "--workdir=run"]
    arguments += [f"--config.{key}={value}" for key, value in changes.items()]
    for stage in ("annotate", "train"):  # which is evaluated at its end
        status = entry.main([*arguments, f"--stage={stage}"])
        assert status == 0, capsys.readouterr().err
    identity = f"mine@2-{process.digest(name)}"
    assert Manifest.load("run/records").rewards == ("beauty@shapes1", identity)
    (evaluation,) = json.loads((tmp_path / "run/evaluation.json").read_text())
    assert evaluation["rewards"] == ["beauty@shapes1", identity]

    flags = ["--checkpoint=run", "--prompt=a square", "--steps=1", "--target", "mine=0.8"]
    best = ["best", name, *flags, "--candidates=3", "--out=best"]
    assert sample(best) == 0, capsys.readouterr().err
    lines = (tmp_path / "best/scores.jsonl").read_text().splitlines()
    scores = [json.loads(line) for line in lines]
    assert {line["reward"] for line in scores} == {identity}
    assert len({line["score"] for line in scores}) == 3
    wrong = make("run(lambda i, c: [0.5] * (len(i) + 1))")
    assert sample(["best", wrong, *flags, "--candidates=3", "--out=wrong"]) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert wrong in said and re.search(r"must answer batch 0 with (\d) scores; it gave \d", said)


@pytest.mark.parametrize("case", ["crash", "hang", "count"])
def test_annotating_with_a_scorer_that_fails_ends_in_one_line_that_names_it(
    make, tmp_path, capsys, case
):
    source = tmp_path / "images"
    source.mkdir()
    for number, image in enumerate(images()):
        Image.fromarray(image).save(source / f"{number}.png")
        (source / f"{number}.txt").write_text("a fox")
    name = make(BROKEN[case][0])
    arguments = [f"--source=folder:{source}", f"--rewards={name}", "--image-encoder=pixels:size=8"]
    arguments += ["--caption-encoder=words", "--num-bins=2", f"--out={tmp_path / 'records'}"]
    assert annotate(arguments) == 1
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("miro-jax annotate: error: The scorer ") and name in said
    assert re.search(SAID[case].rstrip("$"), said)
    assert not (tmp_path / "records" / "manifest.json").exists()
