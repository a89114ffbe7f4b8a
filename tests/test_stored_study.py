"""A study whose folder is in a store: it is whole there, and another machine finds it complete."""

import json
import shutil

import pytest

from miro_jax.evaluate.study import stage
from tests import stores, training

CONFIG = training.ROOT / "configs" / "study.py"


@pytest.mark.slow
def test_a_study_in_a_store_is_whole_and_goes_on_elsewhere(make_bucket, tmp_path):
    url, disk = f"{make_bucket()}/study", tmp_path / "disk"
    launcher = training.Launcher(MIRO_JAX_SCRATCH=str(disk))
    call = f"--config={CONFIG}:tiny", f"--workdir={url}", "--stage=study"
    call += "--config.train.upload_every_seconds=0.5", "--config.study.seeds=(0,)"
    call += ("--config.study.measure_steps=(6,)",)
    try:
        assert launcher(*call) == 0
        first = stores.contents(url)
        shutil.rmtree(disk)
        assert launcher(*call) == 0  # elsewhere, where nothing is left to do
    finally:
        launcher.close()
    names = {"config.json", "study/study.json", "study/study.html", "study/measured.json"}
    assert names <= first.keys() and not [name for name in first if ".lock" in name]
    cells = [name for name in first if name.startswith(f"{stage.FOLDER}/cells/")]
    assert len(cells) == 2  # of two variants
    same = {*cells, "study/study.json", "study/measured.json"}
    again = stores.contents(url)
    assert all(again[name] == first[name] for name in same)
    assert json.loads(first["study/study.json"])
