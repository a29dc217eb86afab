"""The U-Net of DDPM against diffusers' `UNet2DModel`, configured as google/ddpm-cifar10-32.

Weights are those of `tests.weights.drawn`, none of them zero; `unet_weights.table` says where each of ours is in theirs. In
narrower networks theirs is given the group counts of our GroupNorms, which depend on the width below 128 channels.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from gm_jax.nets.layers import group_norm
from gm_jax.nets.unet import UNet
from tests.parity.comparison import Comparison, Values
from tests.parity.recipes import normal
from tests.parity.unet_weights import Sizes, leaves, load, table, their_name, to_ours
from tests.weights import drawn

TIMES = (0, 10, 500, 999)  # one for each image, counted from 0
PAPER_PARAMETERS = 35_746_307  # of the published checkpoint

PAPER = Sizes(channels=128, blocks=2)


def _network(sizes: Sizes) -> UNet:
    return UNet(3, sizes.channels, sizes.multipliers, sizes.blocks, (sizes.attention,))


@functools.cache
def _inputs(sizes: Sizes) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    shape = (len(TIMES), sizes.image, sizes.image, 3)
    return normal("x", shape).astype(np.float32), np.float32(TIMES), normal("eps", shape).astype(np.float32)


@functools.cache
def _params(sizes: Sizes) -> Any:
    x, t, _ = _inputs(sizes)
    return drawn(jax.eval_shape(_network(sizes).init, jax.random.key(0), x, t)["params"])


def _our_output(sizes: Sizes) -> Values:
    x, t, _ = _inputs(sizes)
    out = jax.jit(_network(sizes).apply)({"params": _params(sizes)}, x, t)
    return _by_image(out)


def _by_image(out: Any) -> Values:
    return {f"t={time}": np.asarray(image) for time, image in zip(TIMES, out, strict=True)}


def _our_gradients(sizes: Sizes) -> Values:
    x, t, eps = _inputs(sizes)

    def loss(params):
        out = _network(sizes).apply({"params": params}, x, t)
        return jnp.mean((out - eps) ** 2), out

    gradients, out = jax.jit(jax.grad(loss, has_aux=True))(_params(sizes))
    return _by_image(out) | _by_layer({path: np.asarray(leaf) for path, leaf in leaves(gradients)})


def _by_layer(gradients: dict[tuple[str, ...], np.ndarray]) -> Values:
    """Weight and bias in a row: the gradient by the bias of an attention's keys is zero, and has no scale of its own."""
    layers: dict[str, list[np.ndarray]] = {}
    for path, leaf in sorted(gradients.items()):
        layers.setdefault("/".join(path[:-1]), []).append(leaf.reshape(-1))
    return {name: np.concatenate(parts) for name, parts in layers.items()}


def their_network(sizes: Sizes, weights: bool = True) -> Any:
    """diffusers' network, with our weights or its own random ones."""
    from diffusers import UNet2DModel
    from torch.nn import GroupNorm

    levels = len(sizes.multipliers)
    attends = [sizes.image >> level == sizes.attention for level in range(levels)]
    net = UNet2DModel(
        sample_size=sizes.image,
        block_out_channels=[sizes.channels * m for m in sizes.multipliers],
        layers_per_block=sizes.blocks,
        down_block_types=["AttnDownBlock2D" if a else "DownBlock2D" for a in attends],
        up_block_types=["AttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attends)],
        attention_head_dim=None,
        downsample_padding=0,
        flip_sin_to_cos=False,
        freq_shift=1,
        norm_eps=1e-6,
        norm_num_groups=min(32, sizes.channels),
    ).eval()
    for module in net.modules():
        if isinstance(module, GroupNorm):
            module.num_groups = group_norm(module.num_channels, jnp.float32).num_groups
    if weights:
        load(net, _params(sizes), sizes)
    return net


def _answer(net: Any, sizes: Sizes) -> Any:
    import torch

    x, t, _ = _inputs(sizes)
    return net(torch.from_numpy(x).permute(0, 3, 1, 2), torch.from_numpy(t)).sample.permute(0, 2, 3, 1)


def _their_output(sizes: Sizes) -> Values:
    import torch

    with torch.no_grad():
        return _by_image(_answer(their_network(sizes), sizes))


def _their_gradients(sizes: Sizes) -> Values:
    import torch

    net, places = their_network(sizes), table(sizes)
    out = _answer(net, sizes)
    ((out - torch.from_numpy(_inputs(sizes)[2])) ** 2).mean().backward()
    gradients = {name: parameter.grad.numpy() for name, parameter in net.named_parameters()}
    ours = {path: to_ours(gradients[their_name(path, places)], leaf.shape) for path, leaf in leaves(_params(sizes))}
    return _by_image(out.detach()) | _by_layer(ours)


def parameters() -> Comparison:
    """How many either network has in the published configuration."""
    ours = lambda: {"parameters": np.array(sum(leaf.size for _, leaf in leaves(_params(PAPER))))}  # noqa: E731
    numel = lambda: sum(parameter.numel() for parameter in their_network(PAPER, weights=False).parameters())  # noqa: E731
    theirs = lambda: {"parameters": np.array(numel())}  # noqa: E731
    inputs = f"configuration of google/ddpm-cifar10-32: {PAPER_PARAMETERS:,}"
    return Comparison("U-Net: number of parameters", "diffusers", "UNet2DModel", inputs, 0.0, ours, theirs)


def _compare(what: str, tolerance: float, ours: Callable, theirs: Callable, sizes: Sizes) -> Comparison:
    width = f"{sizes.channels} channels x {sizes.multipliers}, {len(TIMES)} images of {sizes.image}x{sizes.image}"
    inputs = f"{width}, t = {', '.join(map(str, TIMES))}; float32"
    call = functools.partial
    return Comparison(
        what, "diffusers", "UNet2DModel", inputs, tolerance, call(ours, sizes), call(theirs, sizes), relative=True
    )


COMPARISONS: dict[str, Callable[[Sizes], Comparison]] = {
    "output": functools.partial(_compare, "U-Net: output", 1e-5, _our_output, _their_output),
    "gradients": functools.partial(
        _compare, "U-Net: output, and gradients of the squared error by layer", 2e-5, _our_gradients, _their_gradients
    ),
}
