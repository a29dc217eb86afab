"""The price of a loop: training steps of a convolutional network inside `lax` control flow, against the same steps one by one.

    python -m benchmarks.conv_gradient_in_loop [--rounds=3]

Why `train.steps_per_dispatch` is 1 on a CPU (jax-ml/jax issue 12868). Checks that `lax.scan`, `lax.while_loop` and `lax.cond`
compute the same as single steps.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from benchmarks.measure import OURS, compare, main
from gm_jax.system.devices import jit

STEPS = 2
NOTE = "the price of the loop; on a CPU gm_jax takes its steps one by one"


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(4):
            x = x + nn.Conv(x.shape[-1], (3, 3))(nn.swish(x))
        return x


def rows(options):
    net, x = Net(), jax.random.normal(jax.random.key(0), (16, 16, 16, 64))
    params = net.init(jax.random.key(1), x)

    def step(params):
        grads = jax.grad(lambda p: jnp.mean((net.apply(p, x) - x) ** 2))(params)
        return jax.tree.map(lambda p, g: p - 1e-2 * g, params, grads)

    loops, one_by_one = in_loops(step, params), single_steps(jit(step), params)
    expected = one_by_one()
    for name, run in loops.items():
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), run(), expected)  # compiles
        variants = {OURS: run, "one by one": one_by_one}
        yield compare(f"conv. training step in {name}", "step", variants, rounds=options.rounds, per=STEPS, note=NOTE)


def single_steps(compiled, params):
    def run():
        p = params
        for _ in range(STEPS):
            p = compiled(p)
        return jax.block_until_ready(p)

    return run


def in_loops(step, params):
    """The same `STEPS` steps under each kind of control flow."""
    scan = jit(lambda p: jax.lax.scan(lambda p, _: (step(p), None), p, None, STEPS)[0])
    loop = jit(lambda p, n: jax.lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, step(c[1])), (0, p))[1])
    cond = jit(lambda p, due: jax.lax.cond(due, step, lambda p: p, p))
    return {
        "lax.scan": lambda: jax.block_until_ready(scan(params)),
        "lax.while_loop": lambda: jax.block_until_ready(loop(params, STEPS)),
        "lax.cond": single_steps(lambda p: cond(p, True), params),
    }


if __name__ == "__main__":
    main(rows, __doc__, rounds=3)
