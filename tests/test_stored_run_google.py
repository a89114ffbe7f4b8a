"""Records and a run in Google's store: annotated there, staged, lost half-way, ended elsewhere."""

import os
import shutil
import signal

import pytest

from miro_jax.train import components
from tests import stores, training
from tests.test_stored_run import arguments, assert_same_run, fetched, steps_in

pytestmark = pytest.mark.slow


def test_a_run_of_records_in_the_store_that_loses_its_machine_ends_at_the_same_bits(
    make_gs_bucket, tmp_path_factory, tmp_path
):
    here, bucket = training.make_records(tmp_path_factory), make_gs_bucket()
    stores.upload(here, f"{bucket}/records")
    disk = tmp_path / "disk"
    launcher = training.Launcher(MIRO_JAX_SCRATCH=str(disk))
    try:
        order = "--config.data.shuffle_shards=1"
        assert launcher(*arguments(here, tmp_path / "whole", order)) == 0
        url = f"{bucket}/runs/mine"
        call = arguments(f"{bucket}/records", url, order)
        pid = launcher.start(*call)
        training.wait_until(lambda: max(steps_in(url), default=0) > 3, pid)
        os.kill(pid, signal.SIGKILL)
        assert launcher.wait() == -signal.SIGKILL
        shutil.rmtree(disk)
        assert launcher(*call, "--resume=required") == 0
    finally:
        launcher.close()
    assert list(disk.rglob("*.array_record"))  # staged
    parts = components.build_components(training.small())
    assert_same_run(fetched(url, tmp_path / "end"), tmp_path / "whole", parts)
