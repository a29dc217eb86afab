"""Why `train.steps_per_dispatch` is 1 on a CPU: convolution gradients inside a loop, against the same steps one by one.

    python benchmarks/conv_gradient_in_loop.py

Prints the ratio of median seconds per step for `lax.scan`, `lax.while_loop` and `lax.cond` (jax-ml/jax issue 12868), after
checking that all compute the same. Interleaved, in one process.
"""

import statistics
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

STEPS, ROUNDS = 2, 3


class Net(nn.Module):
    @nn.compact
    def __call__(self, x):
        for _ in range(4):
            x = x + nn.Conv(x.shape[-1], (3, 3))(nn.swish(x))
        return x


def main() -> None:
    net, x = Net(), jax.random.normal(jax.random.key(0), (16, 16, 16, 64))
    params = net.init(jax.random.key(1), x)

    def step(params):
        grads = jax.grad(lambda p: jnp.mean((net.apply(p, x) - x) ** 2))(params)
        return jax.tree.map(lambda p, g: p - 1e-2 * g, params, grads)

    one = jax.jit(step)
    gated = jax.jit(lambda p, due: jax.lax.cond(due, step, lambda p: p, p))
    scan = jax.jit(lambda p: jax.lax.scan(lambda p, _: (step(p), None), p, None, STEPS)[0])
    loop = jax.jit(lambda p, n: jax.lax.while_loop(lambda c: c[0] < n, lambda c: (c[0] + 1, step(c[1])), (0, p))[1])

    def one_by_one(function):
        def run():
            p = params
            for _ in range(STEPS):
                p = function(p)
            return p

        return run

    variants = {
        "one by one": one_by_one(one),
        "scan": lambda: scan(params),
        "while_loop": lambda: loop(params, STEPS),
        "cond": one_by_one(lambda p: gated(p, True)),
    }
    reference = variants["one by one"]()
    for run in variants.values():  # compiles
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), run(), reference)
    seconds = {name: [] for name in variants}
    for _ in range(ROUNDS):
        for name, run in variants.items():
            start = time.perf_counter()
            jax.block_until_ready(run())
            seconds[name].append((time.perf_counter() - start) / STEPS)
    base = statistics.median(seconds["one by one"])
    print(f"jax {jax.__version__}, {jax.devices()[0].device_kind}")
    for name, times in seconds.items():
        print(f"{name:12s} {statistics.median(times) / base:7.2f} x")


if __name__ == "__main__":
    main()
