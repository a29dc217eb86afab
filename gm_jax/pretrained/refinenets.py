"""The RefineNets of NCSN (ermongroup/ncsn) and NCSNv2 (ermongroup/ncsnv2), whose pixels are in [0, 1].

NCSN counts its levels from the noisiest; here they count from the cleanest. Its score is that of pixels in [0, 1], twice ours.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gm_jax.pretrained.filling import Layer, Leaf, last_channels
from gm_jax.pretrained.formats import Tensors

STAGES = 4
LEVELS = "normalizer.embed.weight"  # NCSN's: a row a level


def _of_levels(i: int) -> Leaf:
    """gamma (0), delta (1) or beta (2) of all levels."""
    return Leaf("embed.weight", lambda table: np.split(table, 3, axis=1)[i][::-1])


CONDITIONAL = {"gamma": _of_levels(0), "delta": _of_levels(1), "beta": _of_levels(2)}
PLAIN = {ours: Leaf(theirs, lambda v: v[None]) for ours, theirs in (("gamma", "gamma"), ("delta", "alpha"), ("beta", "beta"))}
HALVED = {"kernel": Leaf("weight", lambda tensor: last_channels(tensor) / 2), "bias": Leaf("bias", lambda tensor: tensor / 2)}
# a 1x1 convolution, which here is one too and no dense layer
CONV = {"kernel": Leaf("weight", lambda tensor: np.transpose(tensor, (2, 3, 1, 0))), "bias": Leaf("bias")}


def settings_of(tensors: Tensors) -> dict[str, Any]:
    """Fields of `nets.backbones.refinenet`."""
    channels = len(tensors["begin_conv.weight"]) if "begin_conv.weight" in tensors else 0
    widths = [len(tensors.get(f"res{stage}.1.conv1.weight", ())) for stage in range(1, STAGES + 1)]
    return {"channels": channels, "channel_multipliers": tuple(width // channels for width in widths), "authors": True}


def model_settings(tensors: Tensors, sigmas: np.ndarray | None) -> dict[str, Any]:
    """Fields of `models.ncsn.make`: of NCSN, whose file does not tell its sigmas, how many; of NCSNv2 its sigmas."""
    if sigmas is None:
        return {"levels": len(tensors[LEVELS])}
    first, last = (float(f"{2 * sigma:.6g}") for sigma in (sigmas[0], sigmas[-1]))
    return {"levels": len(sigmas), "sigma_max": first, "sigma_min": last}


def table_of(conditional: bool) -> dict[str, Layer]:
    """Our layers -> theirs."""
    norm = CONDITIONAL if conditional else PLAIN
    table = {"conv_in": Layer("begin_conv", CONV), "norm_out": Layer("normalizer", norm)}
    table["conv_out"] = Layer("end_conv", HALVED if conditional else CONV)
    for stage in range(STAGES):
        for i in (0, 1):
            ours, theirs = f"stage{stage}_block{i}", f"res{stage + 1}.{i}"
            halves = ".conv" if (stage, i) == (1, 0) else ""  # its convolution and its shortcut are followed by pooling
            table |= {f"{ours}/norm{j}": Layer(f"{theirs}.normalize{j + 1}", norm) for j in (0, 1)}
            table |= {f"{ours}/conv0": Layer(f"{theirs}.conv1", CONV), f"{ours}/conv1": Layer(f"{theirs}.conv2{halves}", CONV)}
            table[f"{ours}/shortcut"] = Layer(f"{theirs}.shortcut{halves}", CONV)
        table |= _refine_block(f"refine{stage}", f"refine{STAGES - stage}", norm)
    return table


def _refine_block(ours: str, theirs: str, norm: Mapping[str, Leaf]) -> dict[str, Layer]:
    table = {}
    units = {f"{ours}/input{i}": f"{theirs}.adapt_convs.{i}" for i in (0, 1)} | {f"{ours}/output": f"{theirs}.output_convs"}
    for our, their in units.items():
        for unit in range(3):
            for i in (0, 1):
                table[f"{our}_unit{unit}_{i}"] = Layer(f"{their}.{unit + 1}_{i + 1}_conv", CONV)
                table[f"{our}_unit{unit}_{i}_norm"] = Layer(f"{their}.{unit + 1}_{i + 1}_norm", norm)
    for i in (0, 1):
        for our, their in ((f"{ours}/fuse{i}", f"{theirs}.msf"), (f"{ours}/pool{i}", f"{theirs}.crp")):
            table |= {our: Layer(f"{their}.convs.{i}", CONV), f"{our}_norm": Layer(f"{their}.norms.{i}", norm)}
    return table
