"""What a checkpoint is, by what it holds: its code, the shipped config that it means, and where its tensors go.

An importer looks at the content of a file or folder, and knows it or not. What differs from the config's preset, such as the
width of the network, it reads off the file.
"""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from gm_jax.core import Variables
from gm_jax.errors import InputError
from gm_jax.pretrained import refinenets, song_unets, stylegan2, unets
from gm_jax.pretrained.filling import Layer, fill, of_table
from gm_jax.pretrained.formats import Content, Tensors, attributes, class_name, state_dict, tensors_of
from gm_jax.training.learning import TrainState

CIFAR10_SHAPE = (32, 32, 3)


class Recognized(NamedTuple):
    """A checkpoint of another code, understood."""

    code: str  # whose it is
    licence: str  # of the weights that its authors published
    preset: str  # "edm:cifar10": the shipped config that it means
    model: dict[str, Any]  # fields of the config's section `model`, over the preset's; "network" has its own
    image_shape: tuple[int, ...]
    tensors: Tensors
    table: dict[str, Layer]  # our layers of the network -> theirs
    step: int = 0  # train steps that were made, if the file tells
    weights: str = "ema"  # "ema" or "raw"; "published" where the file does not tell
    num_classes: int | None = None  # that its network tells apart
    players: Callable[[TrainState], Variables] | None = None  # of a model of several networks, instead of `table`

    def variables(self, abstract: TrainState) -> Variables:
        """The model's, of these shapes. Raises InputError for tensors that do not fit."""
        if self.players is not None:
            return self.players(abstract)
        network = fill(abstract.params["network"], of_table(self.table), self.tensors)
        return Variables({"network": network}, abstract.state)


def recognize(content: Content) -> Recognized:
    """Raises InputError for what no importer knows."""
    found = (importer(content) for importer in IMPORTERS)
    known = next((one for one in found if one is not None), None)
    if known is None:
        raise InputError(f"{content.file} is no checkpoint of a code known here; known: {', '.join(CODES)}")
    return known


# --- the importers ------------------------------------------------------------------------------------------------------------


def diffusers(content: Content) -> Recognized | None:
    """google/ddpm-cifar10-32 and its like: a folder of diffusers."""
    if content.config.get("_class_name") != "UNet2DModel":
        return None
    network = unets.diffusers_settings(content.config)
    side = content.config["sample_size"]
    return Recognized(
        "diffusers",
        "Apache-2.0",
        "ddpm:cifar10",
        {"network": network},
        (side, side, content.config["in_channels"]),
        unets.diffusers_names(tensors_of(content.tree)),
        unets.diffusers_table(network),
        weights="published",
    )


def edm(content: Content) -> Recognized | None:
    """A pickle of NVlabs/edm whose "ema" is an EDMPrecond of a SongUNet."""
    ema = content.tree.get("ema") if isinstance(content.tree, dict) else None
    wrapped = attributes(ema)
    if "_modules" not in wrapped:
        return None
    if class_name(ema) not in ("EDMPrecond", ""):
        raise InputError(f"{content.file} holds a {class_name(ema)}; of EDM's networks only EDMPrecond can be imported")
    tensors = {name: t for name, t in state_dict(wrapped["_modules"].get("model")).items() if _trained(name)}
    network = song_unets.edm_settings(tensors)
    side, *_ = shape = song_unets.edm_image(tensors)
    told = {
        name: tensors[f"{name}.weight"].shape[1] if f"{name}.weight" in tensors else 0 for name in ("map_label", "map_augment")
    }
    if told["map_augment"] not in (0, 9):
        raise InputError(
            f"{content.file} tells its network {told['map_augment']} numbers of augmentation; here there are 9 or none"
        )
    model = {"network": network, "class_conditional": bool(told["map_label"])}
    model |= {} if told["map_augment"] else {"augment_probability": 0.0}
    model |= {name: float(wrapped[name]) for name in ("sigma_data",) if name in wrapped}
    table = song_unets.edm_table(network, side)
    classes = told["map_label"] or None
    return Recognized("EDM", "CC BY-NC-SA 4.0", "edm:cifar10", model, shape, tensors, table, num_classes=classes)


def _trained(name: str) -> bool:
    return not name.endswith(song_unets.BUFFERS)


def score_sde(content: Content) -> Recognized | None:
    """A .pth of yang-song/score_sde_pytorch. VP and sub-VP have one network: say model.sde=sub_vp for the latter."""
    tree = content.tree
    if not (isinstance(tree, dict) and {"model", "ema"} <= tree.keys() and "shadow_params" in tree["ema"]):
        return None
    raw = without_module(tensors_of(tree["model"], "."))
    sigmas = raw.pop("sigmas", None)
    frozen = {name: raw[name] for name in ("all_modules.0.W",) if name in raw}
    trained = [name for name in raw if name not in frozen]
    shadow = tree["ema"]["shadow_params"]
    if len(shadow) != len(trained):
        raise InputError(f"{content.file} has {len(trained)} parameters and {len(shadow)} averages of them; fetch it again")
    tensors = frozen | dict(zip(trained, shadow, strict=True))
    network = song_unets.sde_settings(tensors, flax=False)
    model = {"network": network}
    if network["embedding"] == "fourier":
        preset = "score_sde:cifar10_ve"
        if sigmas is not None:
            ends = {"sigma_max": sigmas.max(), "sigma_min": sigmas.min()}
            model |= {name: float(f"{2 * sigma:.6g}") for name, sigma in ends.items()}
    else:
        preset = "score_sde:cifar10"
    table, step = song_unets.sde_table(network, flax=False), int(tree.get("step", 0))
    return Recognized("score_sde", "Apache-2.0", preset, model, CIFAR10_SHAPE, tensors, table, step)


def torchcfm(content: Content) -> Recognized | None:
    """A .pt of atong01/conditional-flow-matching."""
    if not (isinstance(content.tree, dict) and {"ema_model", "net_model"} <= content.tree.keys()):
        return None
    tensors = without_module(tensors_of(content.tree["ema_model"]))
    network = unets.adm_settings(tensors)
    model, table, step = {"network": network}, unets.adm_table(network), int(content.tree.get("step", 0))
    return Recognized("torchcfm", "MIT", "flow_matching:cifar10", model, CIFAR10_SHAPE, tensors, table, step)


def ncsn(content: Content) -> Recognized | None:
    """A .pth of ermongroup/ncsn, [network, optimizer], or of ermongroup/ncsnv2, [network, optimizer, epoch, step, average]."""
    states = content.tree
    if not (isinstance(states, list) and len(states) in (2, 4, 5) and isinstance(states[0], dict)):
        return None
    raw = without_module(tensors_of(states[0]))
    if "begin_conv.weight" not in raw:
        return None
    sigmas, averaged = raw.pop("sigmas", None), len(states) == 5
    tensors = tensors_of(states[4]) if averaged else raw
    conditional = refinenets.LEVELS in tensors
    model = {"network": refinenets.settings_of(tensors)}
    model |= refinenets.model_settings(tensors, None if conditional else sigmas)
    preset, licence = ("ncsn:cifar10", "GPL-3.0") if conditional else ("ncsn:cifar10_v2", "MIT")
    step = int(states[3]) if len(states) > 3 else 0
    shape = (*CIFAR10_SHAPE[:2], raw["begin_conv.weight"].shape[1])
    table, weights = refinenets.table_of(conditional), "ema" if averaged else "raw"
    return Recognized("ncsn" if conditional else "ncsnv2", licence, preset, model, shape, tensors, table, step, weights)


def consistency_models(content: Content) -> Recognized | None:
    """edm_cifar10_ema of openai/consistency_models_cifar10: an EDM by score SDE's code in JAX."""
    params = content.tree.get("params_ema") if isinstance(content.tree, dict) else None
    tensors = tensors_of(params)
    if "ResnetBlockBigGANpp_0.Conv_0.kernel" not in tensors:
        return None
    network = song_unets.sde_settings(tensors, flax=True)
    model = {"network": network, "augment_probability": 0.0}
    table, step = song_unets.sde_table(network, flax=True), int(content.tree.get("step", 0))
    return Recognized(
        "consistency_models_cifar10", "Apache-2.0", "edm:cifar10_ncsnpp", model, CIFAR10_SHAPE, tensors, table, step
    )


def stylegan2_ada(content: Content) -> Recognized | None:
    """A pickle of NVlabs/stylegan2-ada-pytorch: G_ema, the averaged generator, and D."""
    tree = content.tree
    if not (isinstance(tree, dict) and {"G_ema", "D"} <= tree.keys()):
        return None
    players = {"generator": state_dict(tree["G_ema"]), "critic": state_dict(tree["D"])}
    named = {f"{player}.{name}": tensor for player, tensors in players.items() for name, tensor in tensors.items()}
    tensors = {name: tensor for name, tensor in named.items() if not name.endswith(stylegan2.BUFFERS)}
    model, shape, classes = stylegan2.settings_of(tensors)
    return Recognized(
        "StyleGAN2-ADA",
        "Nvidia Source Code License (non-commercial)",
        "stylegan2:cifar10",
        model,
        shape,
        tensors,
        {},
        num_classes=classes,
        players=partial(stylegan2.variables, tensors, shape[0]),
    )


def without_module(tensors: Mapping[str, np.ndarray]) -> Tensors:
    """Without what `DataParallel` puts before each name."""
    return {name.removeprefix("module."): tensor for name, tensor in tensors.items()}


IMPORTERS: tuple[Callable[[Content], Recognized | None], ...] = (
    diffusers,
    edm,
    score_sde,
    torchcfm,
    ncsn,
    consistency_models,
    stylegan2_ada,
)
CODES = tuple(importer.__name__ for importer in IMPORTERS)
