"""A run resumes on other numbers of devices."""

import jax
import numpy as np
import pytest

from miro_jax.models import sharding
from miro_jax.train import components, setup
from miro_jax.train.state import leaf_name
from tests import training
from tests.test_resume import Trial, assert_same_batches

MESHES = ((8, 1), (4, 1), (1, 1), (2, 4))


@pytest.mark.slow
def test_a_run_continues_on_eight_four_one_and_two_by_four_devices(
    tmp_path, tmp_path_factory, monkeypatch
):
    """Each resumes from what the one before saved, bit by bit, and goes on like a run on one."""
    steps, records = 2 * len(MESHES), training.make_records(tmp_path_factory)
    parts = components.build_components(training.small())
    whole = Trial(records, tmp_path / "whole", steps).run()
    chain, restored, saved = Trial(records, tmp_path / "chain", steps), [], {}
    start = setup.begin

    def make_mesh(data, model):
        return jax.make_mesh(
            (data, model),
            ("data", "model"),
            devices=jax.devices()[: data * model],
            axis_types=(jax.sharding.AxisType.Auto,) * 2,
        )

    def watch(*arguments):
        state = start(*arguments)
        restored.append(jax.device_get(state))
        return state

    monkeypatch.setattr(sharding, "make_mesh", make_mesh)
    monkeypatch.setattr(setup, "begin", watch)
    for number, (data, model) in enumerate(MESHES, 1):
        mesh = {"mesh__data": data, "mesh__model": model}
        if number < len(MESHES):
            with pytest.raises(SystemExit):
                chain.run(stop_at=2 * number, **mesh)
        else:
            chain.run(**mesh)
        if number > 1:
            pairs, _ = jax.tree_util.tree_flatten_with_path(restored[-1])
            training.assert_same_arrays({leaf_name(path): leaf for path, leaf in pairs}, saved)
        _, saved, _ = training.newest(chain.workdir, parts)
    assert_same_batches(chain.seen, whole.seen)
    step, arrays, data_state = training.newest(chain.workdir, parts)
    expected_step, expected, expected_data_state = training.newest(whole.workdir, parts)
    assert step == expected_step == steps and data_state == expected_data_state
    for name, array in expected.items():
        error = np.linalg.norm(arrays[name].astype(float) - array)
        assert error <= 1e-5 * max(np.linalg.norm(array), 1e-2), name
    ours, theirs = map(training.without_times, (chain.workdir, whole.workdir))
    assert [line["step"] for line in ours] == [*range(1, steps + 1)]
    for one, other in zip(ours, theirs, strict=True):
        assert one == pytest.approx(other, rel=1e-5), one["step"]
