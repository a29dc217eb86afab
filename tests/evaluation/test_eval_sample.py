import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.evaluation.draw import balanced_labels, draw_samples
from gm_jax.images import to_uint8

DRAW_ELSEWHERE = """
import sys, jax, numpy as np
from conftest import toy_model, toy_variables
from gm_jax.system.batching import map_batches
from gm_jax.evaluation.draw import draw_samples
assert jax.local_device_count() == 8
x = draw_samples(toy_model(), toy_variables(), n=11, seed=3, batch_size=5)
shapes = []
def note(variables, keys):
    shapes.append(keys.shape)
    return jax.random.key_data(keys)
map_batches(note, toy_variables(), 11, batch_size=5)
assert shapes == [(8,)], shapes
np.save(sys.argv[1], x)
"""


def assert_same_images(x, y):
    assert x.shape == y.shape and x.dtype == y.dtype == np.uint8
    assert np.abs(x.astype(int) - y.astype(int)).max() <= 1


@pytest.fixture(scope="module")
def eleven(toy):
    return draw_samples(*toy, n=11, seed=3, batch_size=11)


def test_sample_i_is_drawn_with_its_own_key(context, eleven):
    for i in (0, 10):
        keys = jax.random.fold_in(jax.random.key(3), i)[None]
        assert_same_images(eleven[i : i + 1], np.asarray(to_uint8(context.model.sample(context.variables, keys))))
    assert len(np.unique(eleven, axis=0)) == 11


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_batch_size_changes_nothing(context, eleven, batch_size):
    assert_same_images(draw_samples(context.model, context.variables, 11, 3, batch_size), eleven)


def test_first_samples_do_not_depend_on_n(context, eleven):
    assert_same_images(draw_samples(context.model, context.variables, 6, 3, 4), eleven[:6])


def test_seed_changes_every_sample(context, eleven):
    assert (draw_samples(context.model, context.variables, 11, 4, 11) != eleven).any(axis=(1, 2, 3)).all()


def test_eight_devices_draw_what_one_draws(tmp_path, eleven):
    root = Path(__file__).parents[2]
    env = os.environ | {
        "JAX_PLATFORMS": "cpu",
        "XLA_FLAGS": "--xla_force_host_platform_device_count=8",
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), str(root)]),
    }
    command = [sys.executable, "-c", DRAW_ELSEWHERE, str(tmp_path / "x.npy")]
    done = subprocess.run(command, env=env, cwd=root, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert_same_images(np.load(tmp_path / "x.npy"), eleven)


def test_labels_and_options_reach_the_model_and_it_is_traced_once(context):
    traces, progress = [], []

    def counted(variables, keys, labels=None, **options):
        traces.append(options)
        return context.model.sample(variables, keys, labels, **options)

    model = context.model._replace(sample=counted)
    labels = balanced_labels(10, 11)
    options = {"width": 2.0}
    x = draw_samples(model, context.variables, 11, 0, 4, labels, options, lambda done, total: progress.append((done, total)))
    np.testing.assert_array_equal(x[:, 0, 0, 0], to_uint8(labels.astype(np.float32) / 10))
    assert traces == [{"width": 2.0}]
    assert progress == [(4, 11), (8, 11), (11, 11)]


def test_pixels_that_are_not_finite_stop_the_sampling(context):
    def broken(variables, keys, labels=None):
        x = context.model.sample(variables, keys)
        return x.at[1, 0, 0, 0].set(jnp.nan)

    calls = []
    with pytest.raises(InputError, match="1 of 4 samples hold NaN"):
        model = context.model._replace(sample=broken)
        draw_samples(model, context.variables, 11, 0, 4, progress=lambda *args: calls.append(args))
    assert len(calls) <= 1


def test_options_that_json_turned_into_lists_are_as_good_as_tuples(context):
    def scaled(variables, keys, labels=None, *, scales):
        return jnp.full((len(keys), 4, 4, 1), scales[1])

    model = context.model._replace(sample=scaled)
    drawn = draw_samples(model, context.variables, 2, options={"scales": [0.5, -1.0]})
    assert (drawn == 0).all()


def test_labels_are_the_classes_in_turn_whatever_n():
    np.testing.assert_array_equal(balanced_labels(3, 7), [0, 1, 2, 0, 1, 2, 0])
    np.testing.assert_array_equal(balanced_labels(10, 5, (7, 3)), [7, 3, 7, 3, 7])
    assert balanced_labels(None, 5) is None
    with pytest.raises(InputError, match=r"eval.labels=\(10,\): this model knows the classes 0 to 9"):
        balanced_labels(10, 5, (10,))
    with pytest.raises(InputError, match="unconditional"):
        balanced_labels(None, 5, (1,))
