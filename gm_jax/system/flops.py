"""How many floating-point operations a function takes, read off what it traces to: nothing is run, and no device matters.

Counted are matrix products and convolutions, two operations for each multiplication and addition: next to them all else in a
network is small. The compiler's own estimate will not do: it counts the body of a loop once, and a sampler is a loop.
"""

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax


def flops(fn: Callable[..., Any], *args: Any) -> float:
    """FLOPs of `fn(*args)`; the arguments may be arrays or their shapes (`jax.ShapeDtypeStruct`).

    A `scan` counts as often as it loops, of a `cond` the dearer branch. What a `while_loop` computes is infinite, as nobody
    knows how often it loops. As is usual, multiplications with padding count, those with the zeros of a dilated input do not.
    """
    return _of(jax.make_jaxpr(fn)(*args).jaxpr)


def _of(jaxpr: Any) -> float:
    return sum(_of_equation(equation) for equation in jaxpr.eqns)


def _of_equation(equation: Any) -> float:
    name = equation.primitive.name
    if name in COUNTED:
        return COUNTED[name](equation)
    inner = [_of(jaxpr) for value in equation.params.values() for jaxpr in _jaxprs(value)]
    if name == "scan":
        return equation.params["length"] * sum(inner)
    if name == "while":
        return math.inf if any(inner) else 0
    return max(inner) if name == "cond" else sum(inner)


def _jaxprs(value: Any) -> Iterator[Any]:
    """What an equation calls: a parameter may be a jaxpr, open or closed, or several of them."""
    for item in value if isinstance(value, list | tuple) else [value]:
        jaxpr = getattr(item, "jaxpr", item)
        if hasattr(jaxpr, "eqns"):
            yield jaxpr


def _matrix_product(equation: Any) -> int:
    (summed, _), _ = equation.params["dimension_numbers"]
    lhs, out = equation.invars[0].aval.shape, equation.outvars[0].aval.shape
    return 2 * math.prod(out) * math.prod(lhs[axis] for axis in summed)


def _convolution(equation: Any) -> int:
    lhs, kernel, out = (v.aval.shape for v in (*equation.invars, *equation.outvars))
    of_lhs, of_kernel, of_out = equation.params["dimension_numbers"]  # the axes: batch (or output) and feature, then space
    space = zip(of_lhs[2:], of_kernel[2:], of_out[2:], strict=True)
    # The kernel meets every pixel of the output; where the input has fewer (a transposed convolution), every one of the input.
    taps = [kernel[k] * min(lhs[i], out[o]) for i, k, o in space]
    return 2 * out[of_out[0]] * out[of_out[1]] * kernel[of_kernel[1]] * math.prod(taps)


COUNTED: dict[str, Callable[[Any], int]] = {"dot_general": _matrix_product, "conv_general_dilated": _convolution}
