import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.core import Batch, Variables
from gm_jax.models import ddpm
from gm_jax.system.flops import flops
from gm_jax.training import learning


def shaped(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def estimate_of_xla(fn, *args):
    return jax.jit(fn).lower(*args).cost_analysis()["flops"]


def test_products_are_counted_whatever_their_axes():
    assert flops(lambda a, b: a @ b, shaped(3, 5), shaped(5, 7)) == 2 * 3 * 5 * 7
    assert flops(lambda a, b: jnp.einsum("nij,nkj->nik", a, b), shaped(4, 3, 5), shaped(4, 7, 5)) == 4 * 2 * 3 * 5 * 7
    assert flops(lambda a: jnp.tanh(a) + a, shaped(3, 5)) == 0


@pytest.mark.parametrize(
    "settings",
    [{}, {"window_strides": (2, 3)}, {"rhs_dilation": (2, 1)}, {"feature_group_count": 3}],
)
def test_convolutions_and_their_gradients_are_counted_as_the_compiler_does(settings):
    """Without padding: multiplications with it are none to the compiler."""
    x, kernel = shaped(2, 8, 9, 6), shaped(3, 3, 6 // settings.get("feature_group_count", 1), 12)

    def convolve(x, kernel):
        common = {"window_strides": (1, 1), "padding": "VALID", "dimension_numbers": ("NHWC", "HWIO", "NHWC")}
        return jax.lax.conv_general_dilated(x, kernel, **common | settings)

    once = flops(convolve, x, kernel)
    assert once == estimate_of_xla(convolve, x, kernel)

    def gradients(x, kernel, g):
        return jax.vjp(convolve, x, kernel)[1](g)

    assert flops(gradients, x, kernel, jax.eval_shape(convolve, x, kernel)) == 3 * once


def test_padding_counts_and_the_gaps_of_a_transposed_convolution_do_not():
    x, kernel = shaped(2, 8, 8, 6), shaped(3, 3, 6, 12)

    def convolve(x, kernel):
        return jax.lax.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def transposed(x, kernel):
        return jax.lax.conv_transpose(x, kernel, (2, 2), "SAME")

    assert flops(convolve, x, kernel) == flops(transposed, x, kernel) == 2 * (2 * 8 * 8) * (3 * 3) * 6 * 12


def test_loops_count_as_often_as_they_run():
    a, product = shaped(5, 5), 2 * 5**3

    def loop(length):
        return lambda a: jax.lax.scan(lambda x, _: (x @ a, None), a, length=length)[0]

    assert flops(loop(7), a) == 7 * product
    assert flops(lambda a: jax.lax.fori_loop(0, 4, lambda i, x: loop(3)(x), a), a) == 12 * product
    assert flops(jax.checkpoint(jax.jit(loop(2))), a) == 2 * product
    assert flops(lambda a: jax.lax.map(lambda row: a @ row, a), a) == product


def test_of_a_condition_the_dearer_branch_counts_and_an_unknown_loop_has_no_count():
    a = shaped(5, 5)
    assert flops(lambda a: jax.lax.cond(a[0, 0] > 0, lambda: a, lambda: a @ a @ a), a) == 2 * 2 * 5**3
    assert flops(lambda a: jax.lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x @ a, a), a) == np.inf
    assert flops(lambda a: jax.lax.while_loop(lambda x: x[0, 0] > 0, lambda x: x - 1, a), a) == 0


def test_the_paper_s_ddpm_has_its_known_count():
    model = ddpm.make((32, 32, 3))
    batch = Batch(shaped(1, 32, 32, 3), None, jax.eval_shape(lambda: jax.random.split(jax.random.key(0), 1)))
    params, state = jax.eval_shape(model.init, jax.eval_shape(lambda: jax.random.key(0)), batch)
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == 35_746_307

    def forward(params, x):
        return model.diffusion.denoiser(Variables(params))(x, jnp.float32(5))

    def train(params, batch):
        return learning.gradients(model.objectives[0], params, state, jax.random.key(0), batch, jnp.int32(0), None)

    once, trained = flops(forward, params, batch.x), flops(train, params, batch)
    assert once == pytest.approx(12.2e9, rel=0.02) and trained == pytest.approx(3 * once, rel=0.02)
    assert estimate_of_xla(train, params, batch) == pytest.approx(trained, rel=0.1)  # without padding, with additions
