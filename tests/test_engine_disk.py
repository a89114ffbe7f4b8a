"""A disk that becomes full at any moment: a line with the path and the remedy; then it resumes."""

import builtins
import os
import shutil

import pytest

from miro_jax import annotate, score
from miro_jax.data.shapes import world
from tests.annotating import contents

pytestmark = [pytest.mark.usefixtures("no_flush"), pytest.mark.slow]

COMMANDS = {
    "score": lambda source, out: score.main(
        [f"tar:{source}/*.tar", "--rewards=beauty", f"--out={out}/a.csv"]
    ),
    "annotate": lambda source, out: annotate.main(
        [f"--source=tar:{source}/*.tar", "--rewards=beauty", f"--out={out}/set"]
        + ["--image-encoder=pixels:size=16", "--caption-encoder=words:width=8,max_tokens=8"]
    ),
}


class Disk:
    """Lets so many files below a folder be begun or moved into place, and is full then."""

    def __init__(self, monkeypatch, folder, room):
        self._folder, self._room, self.refused = str(folder), room, 0
        self._replace, self._open = os.replace, builtins.open
        self._os_open, self._mkdir = os.open, os.mkdir
        monkeypatch.setattr(os, "replace", self.replace)
        monkeypatch.setattr(builtins, "open", self.open)
        monkeypatch.setattr(os, "open", self.os_open)
        monkeypatch.setattr(os, "mkdir", self.mkdir)

    def _take(self, path):
        if str(path).startswith(self._folder):
            self._room -= 1
            if self._room < 0:
                self.refused += 1
                raise OSError(28, "No space left on device", str(path))

    def replace(self, source, target, **more):
        self._take(source)
        return self._replace(source, target, **more)

    def open(self, file, mode="r", *more, **options):
        if set(mode) & set("wax"):
            self._take(file)
        return self._open(file, mode, *more, **options)

    def os_open(self, path, flags, *more, **options):
        if flags & os.O_CREAT:
            self._take(path)
        return self._os_open(path, flags, *more, **options)

    def mkdir(self, path, *more, **options):
        self._take(path)
        return self._mkdir(path, *more, **options)


@pytest.mark.parametrize("verb", list(COMMANDS))
def test_a_disk_that_is_full_from_any_moment_on_ends_with_1_and_then_resumes(
    verb, tmp_path, capsys, monkeypatch
):
    source, run = tmp_path / "source", COMMANDS[verb]
    world.write_shards(source, 6, 16, 3)
    (tmp_path / "whole").mkdir()
    assert run(source, tmp_path / "whole") == 0
    whole = contents(tmp_path / "whole")
    out = tmp_path / "out"
    for room in range(100):
        out.mkdir()
        capsys.readouterr()
        with monkeypatch.context() as patch:
            disk = Disk(patch, out, room)
            status = run(source, out)
        if not disk.refused:
            break
        err = capsys.readouterr().err.splitlines()[-1]
        assert status == 1, (room, err)
        nothing_begun = (verb, room) == ("annotate", 0)  # its folder cannot be made
        then = ", and try again." if nothing_begun else "; the same command then resumes from here."
        assert f"the disk is full: {out}" in err and err.endswith(f"Make room{then}"), (room, err)
        assert run(source, out) == 0, room
        made = contents(out)
        assert made.keys() == whole.keys(), room
        assert all(made[n] == whole[n] for n in made if not n.endswith(".summary.json")), room
        shutil.rmtree(out)
    assert status == 0 and room > 8
