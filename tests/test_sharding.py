"""Training and sampling agree between one device and two layouts of eight, and are laid out so."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from miro_jax.models import sharding, solvers
from miro_jax.models.rin import RIN
from miro_jax.models.sampler import Branch, Guidance, draw_noise, make_sampler, sample_keys
from miro_jax.train.optim import make_optimizer, schedule_of
from miro_jax.train.settings import Optim, Recipe
from miro_jax.train.state import Init, abstract_state
from miro_jax.train.step import make_loss, make_train_step
from tests.networks import (
    TINY,
    abstract_network,
    assert_leaves_agree,
    difference,
    make_batch,
    paths,
    random_network,
    small_mesh,
)

pytestmark = pytest.mark.slow

STEPS = 5
ROWS = 8
TOLERANCE = 1e-5
MESHES = {"1x1": (1, 1), "8x1": (8, 1), "4x2": (4, 2)}
RECIPE = Recipe(
    time_mean=0.0,
    time_std=1.0,
    self_condition_rate=0.5,
    reward_dropout=0.2,
    caption_dropout=0.2,
    ema_decay=0.9,
)
# On the 4 x 2 mesh; what is not named here follows the same rules.
SPECS = {
    "patch_in/kernel": P(None, "data"),
    "patch_in/bias": P("data"),
    "patch_out/kernel": P("data", None),
    "patch_out/bias": P(None),
    "patch_norm/scale": P("data"),
    "token_positions/table": P(None, "data"),
    "latent_tokens/table": P(None, "data"),
    "registers/table": P(None, "data"),
    "reward_positions/table": P(None, "data"),
    "caption_in/kernel": P(None, "data"),
    "time/hidden/kernel": P(None, "model"),
    "rewards/2/out/kernel": P("model", "data"),
    "previous_gate/bias": P("data"),
    "condition_encoder/0/qkv/kernel": P("data", None, "model", None),
    "condition_encoder/0/qkv/bias": P(None, "model", None),
    "condition_encoder/0/mlp_scale/layer_scale": P("data"),
    "blocks/0/read/q/kernel": P("data", "model", None),
    "blocks/0/read/kv/kernel": P("data", None, "model", None),
    "blocks/0/read/out/kernel": P("model", None, "data"),
    "blocks/0/read/k_norm/scale": P(None),
    "blocks/0/process/0/mlp/packed/kernel": P("data", None, "model"),
    "blocks/0/process/0/mlp/packed/bias": P(None, "model"),
    "blocks/0/process/0/mlp/out/kernel": P("model", "data"),
    "logvar/out/kernel": P(None, None),
}


def build(rngs):
    return RIN(TINY, rngs=rngs)


def make_batches():
    for step in range(STEPS):
        batch = make_batch(TINY, ROWS, 6, seed=step)
        batch["levels"][1, 2] = np.nan
        batch["caption_mask"][2, 3:] = False
        yield {
            "image_mean": batch["x"].astype(np.float16),
            "image_std": np.full_like(batch["x"], 0.1, np.float16),
            "caption_tokens": batch["caption_tokens"].astype(np.float16),
            "caption_mask": batch["caption_mask"],
            "levels": batch["levels"],
            "weight": (np.arange(ROWS) != 5).astype(np.float32),  # one damaged record
        }


class Training:
    """Five steps on one mesh, as the training stage makes them; keeps what came out."""

    def __init__(self, data, model):
        self.mesh = mesh = small_mesh(data, model)
        settings = Optim("lamb", learning_rate=1e-3, warmup_steps=0, clip_norm=float("inf")), 1000
        optimizer, schedule = make_optimizer(*settings), schedule_of(*settings)
        with sharding.use_mesh(mesh):
            init = Init(build, optimizer)
            self.graphdef = init.graphdef
            self.abstract, self.shardings = abstract_state(init, mesh)
            state = jax.jit(init, out_shardings=self.shardings)(jax.random.key(0))
            self.start = jax.device_get(state)
            # Some gradients are next to nothing at the start values; these are not.
            params = jax.device_put(random_network(TINY, seed=3)[1], self.shardings.params)
            ema_params = jax.device_put(self.start.ema_params, self.shardings.ema_params)
            state = dataclasses.replace(state, params=params, ema_params=ema_params)
            empty = np.ones((1, TINY.caption_width), np.float16)
            loss = make_loss(self.graphdef, RECIPE, lambda x: x, empty)
            self.step = jax.jit(
                make_train_step(loss, optimizer, schedule, RECIPE, seed=7),
                donate_argnums=0,
                out_shardings=(self.shardings, sharding.replicated(mesh)),
            )
            self.metrics = []
            for batch in make_batches():
                arrays = jax.device_put(batch, sharding.batch_sharding(mesh))
                with jax.transfer_guard("disallow"):
                    state, metrics = self.step(state, arrays)
                if not self.metrics:
                    self.first = jax.device_get(state)
                self.metrics.append(jax.device_get(metrics))
        self.state = state


def moments(state):
    """The two moments of Adam, each a tree like the parameters."""
    found = []

    def visit(node):
        if hasattr(node, "mu"):
            found.append((node.mu, node.nu))
        elif isinstance(node, tuple):
            for child in node:
                visit(child)

    visit(state.opt_state)
    assert len(found) == 1
    return found[0]


@pytest.fixture(scope="module")
def trainings():
    return {name: Training(*sizes) for name, sizes in MESHES.items()}


@pytest.fixture(scope="module", params=["8x1", "4x2"])
def pair(request, trainings):
    """The training on one device and one on eight."""
    return trainings["1x1"], trainings[request.param]


def test_start_values_do_not_depend_on_the_mesh(pair):
    one, many = pair
    for ours, expected in zip(jax.tree.leaves(many.start), jax.tree.leaves(one.start), strict=True):
        np.testing.assert_allclose(ours, expected, rtol=1e-6, atol=1e-7)


def test_losses_agree(pair):
    one, many = pair
    for ours, expected in zip(many.metrics, one.metrics, strict=True):
        for name, value in expected.items():
            # The norm of the updates counts the random steps of what has no effect.
            tolerance = 1e-3 if name == "update_norm" else TOLERANCE
            np.testing.assert_allclose(ours[name], value, rtol=tolerance, err_msg=name)
    assert one.metrics[0]["damaged_records"] == 1


def test_first_gradients_agree(pair):
    """After one update Adam's first moment is a tenth of the gradient."""
    one, many = pair
    assert_leaves_agree(moments(many.first)[0], moments(one.first)[0], TOLERANCE)
    sizes = [np.abs(g).max() for g in jax.tree.leaves(moments(one.first)[0])]
    assert np.mean(np.array(sizes) > 1e-5) > 0.7


def test_parameters_and_ema_agree_after_five_steps(pair):
    one, many = pair
    assert_leaves_agree(many.state.params, one.state.params, TOLERANCE)
    assert_leaves_agree(many.state.ema_params, one.state.ema_params, TOLERANCE)
    assert int(many.state.step) == STEPS
    random = paths(random_network(TINY, seed=3)[1])
    for path, leaf in paths(one.state.params).items():
        moved = np.abs(leaf - random[path]).max() / np.abs(random[path]).max()
        assert path.endswith("k_norm/bias") or moved > 1e-3, path


def test_step_compiles_once(trainings):
    """A state that comes out laid out otherwise than it went in would compile a second time."""
    assert {name: run.step._cache_size() for name, run in trainings.items()} == dict.fromkeys(
        MESHES, 1
    )


def test_named_leaves_have_the_expected_layout(trainings):
    run = trainings["4x2"]
    leaves = paths(run.state.params)
    for path, spec in SPECS.items():
        leaf = leaves[path]
        expected = NamedSharding(run.mesh, spec)
        assert leaf.sharding.is_equivalent_to(expected, leaf.ndim), (path, leaf.sharding.spec)


def test_moments_and_ema_are_laid_out_like_their_parameters(trainings):
    state = trainings["4x2"].state
    params = paths(state.params)
    for tree in (state.ema_params, *moments(state)):
        assert paths(tree).keys() == params.keys()
        for path, leaf in paths(tree).items():
            assert leaf.sharding.is_equivalent_to(params[path].sharding, leaf.ndim), path
    for leaf in (state.step, *jax.tree.leaves(state.buffers)):
        assert leaf.sharding.is_fully_replicated


def test_state_keeps_the_layout_it_was_promised(trainings):
    for run in trainings.values():
        promised = jax.tree.leaves(run.shardings)
        assert [leaf.sharding for leaf in jax.tree.leaves(run.state)] == promised
        assert [leaf.sharding for leaf in jax.tree.leaves(run.abstract)] == promised


def test_a_device_holds_its_share_of_the_state(trainings):
    def held(run):
        leaves = jax.tree.leaves((run.state.params, run.state.opt_state))
        return sum(leaf.addressable_shards[0].data.size for leaf in leaves)

    whole = held(trainings["1x1"])
    assert held(trainings["8x1"]) < 0.25 * whole
    assert held(trainings["4x2"]) < 0.25 * whole


def test_axis_that_the_mesh_does_not_divide_stays_whole():
    """Two heads over four devices, and a width of 32 over two."""
    optimizer = make_optimizer(Optim("lamb", learning_rate=1e-3, warmup_steps=0), 9)
    mesh = small_mesh(2, 4)
    with sharding.use_mesh(mesh):
        init = Init(build, optimizer)
        _, shardings = abstract_state(init, mesh)
    leaf = paths(shardings.params)["blocks/0/read/q/kernel"]
    assert leaf.spec == P("data", None, None)


def test_every_axis_of_the_network_stands_in_the_rules():
    _, params, _ = abstract_network(TINY)
    known = dict(sharding.RULES)
    for path, leaf in nnx.to_flat_state(params):
        names = leaf.get_metadata()["out_sharding"]
        assert len(names) == len(leaf.get_raw_value().shape), path
        assert set(names) <= known.keys(), path


def test_sampling_does_not_depend_on_the_mesh(trainings):
    batch = make_batch(TINY, ROWS, 6, seed=9)
    levels = np.ones((ROWS, TINY.num_rewards), np.float32)
    branches = [
        Branch(batch["caption_tokens"], batch["caption_mask"], lv) for lv in (levels, 0 * levels)
    ]
    pictures = []
    for name in ("1x1", "4x2"):
        run = trainings[name]
        sample = make_sampler(run.graphdef, solvers.euler, 2)
        state = jax.device_put(trainings["1x1"].start, run.shardings)
        with sharding.use_mesh(run.mesh):
            place = sharding.batch_sharding(run.mesh)
            keys = sample_keys(0, np.arange(ROWS), np.zeros(ROWS, int))
            inputs = jax.device_put((keys, *branches, np.full(ROWS, 3.0, np.float32)), place)
            noise = draw_noise(inputs[0], TINY.latent_shape)
            guidance = Guidance(inputs[-1], jnp.array([0.0, 1.0]))
            weights = (state.params, state.buffers)
            pictures.append(sample(weights, noise, *inputs[1:-1], guidance, guided=True))
    assert difference(pictures[1], pictures[0]) <= TOLERANCE


@pytest.mark.parametrize(
    ("text", "shape"),
    [("all", (8, 1)), ("allx2", (4, 2)), ("allx8", (1, 8)), ("2x3", (2, 3)), ("1x1", (1, 1))],
)
def test_a_mesh_is_read_as_people_write_it(text, shape):
    mesh = sharding.local_mesh(*sharding.parse_mesh(text))
    assert (mesh.shape["data"], mesh.shape["model"]) == shape


@pytest.mark.parametrize("text", ["", "4", "4x", "x2", "0x1", "allx0", "4x2x1", "-1x2"])
def test_another_text_is_no_mesh(text):
    with pytest.raises(ValueError, match=f"DATAxMODEL or allxMODEL, such as 4x2; got '{text}'"):
        sharding.parse_mesh(text)


@pytest.mark.parametrize(("text", "said"), [("allx3", "divide the 8"), ("3x3", "fit the 8")])
def test_a_mesh_that_does_not_fit_the_devices_is_refused(text, said):
    with pytest.raises(ValueError, match=said):
        sharding.local_mesh(*sharding.parse_mesh(text))


def test_constrain_lays_the_batch_out_and_does_nothing_without_a_mesh():
    x = jnp.ones((8, 2, 3))
    assert sharding.constrain(x, "batch", None, None) is x
    mesh = small_mesh(8, 1)
    with sharding.use_mesh(mesh):
        found = jax.jit(lambda x: sharding.constrain(x, "batch", None, None))(x)
    assert found.sharding.is_equivalent_to(NamedSharding(mesh, P("data")), 3)


@pytest.mark.parametrize("data, model, shape", [(-1, 1, (8, 1)), (-1, 4, (2, 4)), (4, 2, (4, 2))])
def test_mesh_takes_all_devices(data, model, shape):
    mesh = sharding.make_mesh(data, model)
    assert (mesh.shape["data"], mesh.shape["model"]) == shape
    assert len(set(mesh.devices.flat)) == 8


@pytest.mark.parametrize(
    "data, model, error",
    [
        (4, 1, "must be the 8 devices; got 4 x 1"),
        (-1, 3, "config.mesh.model must divide the 8 devices; got 3"),
        (0, 8, "config.mesh.data must be at least 1.*; got 0"),
        (-2, 1, "config.mesh.data must be at least 1.*; got -2"),
        (8, 0, "config.mesh.model must be at least 1.*; got 0"),
    ],
)
def test_mesh_that_does_not_fit_is_refused(data, model, error):
    with pytest.raises(ValueError, match=error):
        sharding.make_mesh(data, model)
