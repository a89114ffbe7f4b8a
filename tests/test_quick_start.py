"""The README's first commands run as they are pasted, one after another."""

import pathlib
import re
import shlex

import pytest

from miro_jax import __main__ as entry
from tests import sampling

ROOT = pathlib.Path(__file__).parent.parent


def commands():
    """What follows `miro-jax` in the lines of the README's first block, after `make train`."""
    block = re.search(r"```bash\n(.*?)```", (ROOT / "README.md").read_text("utf-8"), re.S)[1]
    lines = [shlex.split(line, comments=True) for line in block.splitlines()]
    assert lines[0] == ["make", "train"]
    return [words[1:] for words in lines if words[0] == "miro-jax"]


@pytest.mark.slow
def test_the_first_commands_of_the_readme_run_in_their_order(monkeypatch, tmp_path, capsys):
    monkeypatch.chdir(tmp_path)
    sampling.save_tiny(pathlib.Path("runs/base"), size=16)  # in place of what `make train` makes
    for words in commands():
        assert entry.main(words) == 0, capsys.readouterr().err
    assert [words[0] for words in commands()] == ["sample", "score"]
    assert pathlib.Path("out/sweep/grid.png").is_file()
    assert pathlib.Path("scores.parquet").is_file()
