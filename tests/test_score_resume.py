"""The score stage: outputs that are complete, belong to another command, or were interrupted."""

import json
import pathlib
import random
import subprocess
import sys

import pytest

from tests.scoring import Brightness, file_bytes, grey, make_folder, make_shapes, read_rows, score

ROOT = pathlib.Path(__file__).parent.parent


pytestmark = pytest.mark.usefixtures("no_flush")


def test_complete_output_is_returned_at_once_and_never_given_to_another_command(tmp_path):
    folder, out = make_folder(tmp_path / "in", 5), tmp_path / "a.parquet"
    first = score(folder, out)
    before = out.read_bytes()
    again = [Brightness(), Brightness("length", True)]
    assert score(folder, out, again) == first and again[0].num_encoded == 0
    with pytest.raises(ValueError, match="another request: rewards is .*Give another --out"):
        score(folder, out, [Brightness()])
    (folder / "new.png").write_bytes(file_bytes(grey(9)))
    with pytest.raises(ValueError, match="another request: input.images is 5 there, 6 here"):
        score(folder, out)
    assert out.read_bytes() == before


def test_a_file_of_other_origin_is_not_overwritten(tmp_path):
    out = tmp_path / "a.csv"
    out.write_text("mine")
    with pytest.raises(ValueError, match="is there already"):
        score(make_folder(tmp_path / "in", 1), out)
    assert out.read_text() == "mine"


class Interrupted(KeyboardInterrupt):
    pass


def interrupt(folder, out):
    """Begin to score and stop after two batches."""

    class Stops(Brightness):
        def encode(self, prepared):
            if self.num_encoded >= 8:  # and one of noise: see `contract.check_shared`
                raise Interrupted
            return super().encode(prepared)

    with pytest.raises(Interrupted):
        score(folder, out, [Stops(), Brightness("length", True)])


def test_interrupted_run_resumes_where_it_was(tmp_path):
    folder, out = make_folder(tmp_path / "in", 18), tmp_path / "a.parquet"
    interrupt(folder, out)
    chosen = [Brightness(), Brightness("length", True)]
    score(folder, out, chosen)
    assert chosen[0].num_encoded == 10
    score(folder, tmp_path / "whole.parquet")
    assert out.read_bytes() == (tmp_path / "whole.parquet").read_bytes()


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"rewards": [Brightness()]}, "rewards"),
        ({"stored": True}, "stored"),
        ({"limit": 9}, "limit"),
        ({"captions": True}, "captions"),
        ({"rename": True}, "input"),
    ],
)
def test_parts_of_another_request_are_refused(tmp_path, change, text):
    folder, out = make_folder(tmp_path / "in", 18), tmp_path / "a.csv"
    interrupt(folder, out)
    change = dict(change)
    if change.pop("rename", False):
        (folder / "003.png").rename(folder / "x.png")
    if change.get("captions"):
        change["captions"] = make_shapes(tmp_path / "shapes", 1)
    differs = f"{text}.* is .* there, .* here|input has other content there than here"
    with pytest.raises(ValueError, match=f"a.csv belongs to another request: ({differs})"):
        score(folder, out, **change)


def test_other_weights_of_a_reward_are_refused(tmp_path):
    folder, out = make_folder(tmp_path / "in", 18), tmp_path / "a.csv"
    interrupt(folder, out)
    other = [Brightness(), Brightness("length", True)]
    other[0].tower = "other weights"
    with pytest.raises(ValueError, match="brightness.tower is .mean. there, .other weights. here"):
        score(folder, out, other)


def test_batch_size_and_threads_may_change_on_the_way(tmp_path):
    folder, out = make_folder(tmp_path / "in", 18), tmp_path / "a.csv"
    interrupt(folder, out)
    score(folder, out, batch_size=3, num_threads=1)
    assert [row["key"] for row in read_rows(out)] == [f"{i:03d}.png" for i in range(18)]


# Imports once, then forks. Each child counts what it does to the disk and the batches it scores,
# and kills itself before the event whose number it was given; 0 is never.
KILLED = """
import json, os, sys
from miro_jax.rewards import base
from miro_jax.score import score_images
from tests import moments

folder, captions, trials = *sys.argv[1:3], json.loads(sys.argv[3])

for out, moment in trials:
    child = os.fork()
    if not child:
        os.fsync = lambda descriptor: None  # a kill, other than a power cut, loses nothing written
        for name in ("replace", "unlink"):
            setattr(os, name, moments.watched(getattr(os, name), moment))
        base.score_prepared = moments.watched(base.score_prepared, moment)
        score_images(folder, ["colors", "beauty"], out, captions=captions, batch_size=5,
                     num_threads=2)
        print("finished", moments.events, flush=True)
        os._exit(0)
    if os.WIFSIGNALED(os.waitpid(child, 0)[1]):
        print("killed", moment, flush=True)
    if os.path.exists(out + ".summary.json"):
        assert os.path.exists(out)
"""


def run_killed(folder, captions, trials):
    """Run a process for each (output, moment); return how each ended, after how many events."""
    trials = json.dumps([(str(out), moment) for out, moment in trials])
    arguments = (str(folder), str(captions), trials)
    done = subprocess.run(
        [sys.executable, "-c", KILLED, *arguments],
        capture_output=True,
        text=True,
        timeout=120,
        cwd=ROOT,
    )
    assert done.returncode == 0, done.stderr
    return [line.split() for line in done.stdout.splitlines()]


@pytest.mark.slow
def test_killed_at_random_moments_the_output_ends_byte_identical(tmp_path):
    captions = make_shapes(tmp_path / "in", 28)
    (tmp_path / "in" / "007.png").write_bytes(b"bad")
    whole, rng = tmp_path / "whole.parquet", random.Random(0)
    outs = [tmp_path / f"out{trial}.parquet" for trial in range(3)]
    trials = [(out, m) for out in outs for m in (*rng.sample(range(2, 12), 3), 0)]
    ends = run_killed(tmp_path / "in", captions, [(whole, 0), *trials])
    assert ends[0][0] == "finished" and int(ends[0][1]) >= 20
    assert [end for end, _ in ends].count("killed") >= 7
    assert [end for end, _ in ends].count("finished") >= 4
    for out in outs:
        assert out.read_bytes() == whole.read_bytes()
        for ending in (".failures.jsonl", ".histograms.svg"):
            assert pathlib.Path(f"{out}{ending}").read_bytes() == (
                pathlib.Path(f"{whole}{ending}").read_bytes()
            )
        assert not pathlib.Path(f"{out}.parts").exists()
    assert len(list(tmp_path.glob("*captions-index"))) == 0
