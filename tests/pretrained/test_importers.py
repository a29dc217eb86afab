"""Published files at their full size: every one of their tensors is used, and every parameter of ours is filled, once.

files/names.json.gz has the names and shapes that the authors' own networks gave, built as for CIFAR-10: the state dicts of
UNet2DModel of diffusers 0.42 (configured as google/ddpm-cifar10-32), of SongUNet of NVlabs/edm (with augmentation), NCSNpp of
yang-song/score_sde_pytorch, CondRefineNetDilated of ermongroup/ncsn, NCSNv2 of ermongroup/ncsnv2 and UNetModelWrapper of
atong01/conditional-flow-matching, and the parameters of NCSNpp of openai/consistency_models_cifar10.
"""

import gzip
import json
from pathlib import Path

import jax
import numpy as np
import pytest

from gm_jax.build import build_model, resolve
from gm_jax.cli.config import load_config, shipped_configs
from gm_jax.errors import InputError
from gm_jax.pretrained import unets
from gm_jax.pretrained.filling import Layer, fill, of_table
from gm_jax.pretrained.formats import Content
from gm_jax.pretrained.importers import recognize
from gm_jax.pretrained.loading import config_of, understand
from gm_jax.training.optimizers import build_optimizers
from gm_jax.training.start import abstract_state

SHAPES = json.loads(gzip.decompress((Path(__file__).parent / "files/names.json.gz").read_bytes()))
DIFFUSERS = {
    "_class_name": "UNet2DModel",
    "act_fn": "silu",
    "attention_head_dim": None,
    "block_out_channels": [128, 256, 256, 256],
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"],
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
    "in_channels": 3,
    "layers_per_block": 2,
    "norm_eps": 1e-6,
    "out_channels": 3,
    "sample_size": 32,
    "up_block_types": ["UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
}


def parallel(tensors):
    return {f"module.{name}": tensor for name, tensor in tensors.items()}


def edm(tensors):
    return {"ema": {"_modules": {"model": {"_parameters": tensors}}, "sigma_data": 0.5}}


def score_sde(tensors):
    trained = [tensor for name, tensor in tensors.items() if name not in ("sigmas", "all_modules.0.W")]
    sigmas = np.geomspace(50, 0.01, 1000)
    return {"model": parallel({**tensors, "sigmas": sigmas}), "ema": {"shadow_params": trained}, "step": 7}


def ncsnv2(tensors):
    sigmas, trained = np.geomspace(50, 0.01, 232), {name: t for name, t in tensors.items() if name != "sigmas"}
    return [parallel({**tensors, "sigmas": sigmas}), {}, 1, 7, trained]


def adm(tensors):
    return {"net_model": {}, "ema_model": tensors, "step": 7}


# case -> what its file holds, of the tensors; the preset that it is; fields of the model that are not the preset's
CASES = {
    "consistency_models_cifar10": (
        lambda tensors: {"params_ema": tensors, "step": 7},
        "edm:cifar10_ncsnpp",
        {"augment_probability": 0.0},
    ),
    "diffusers": (lambda tensors: tensors, "ddpm:cifar10", {}),
    "edm_ddpmpp": (edm, "edm:cifar10", {}),
    "edm_ddpmpp_conditional": (edm, "edm:cifar10_conditional", {}),
    "edm_ncsnpp": (edm, "edm:cifar10_ncsnpp", {}),
    "ncsn": (lambda tensors: [parallel(tensors), {}], "ncsn:cifar10", {"network.authors": True}),
    "ncsnv2": (ncsnv2, "ncsn:cifar10_v2", {"network.authors": True}),
    "score_sde_ddpmpp": (score_sde, "score_sde:cifar10", {}),
    "score_sde_ncsnpp": (score_sde, "score_sde:cifar10_ve", {}),
    "torchcfm": (adm, "flow_matching:cifar10", {"network.variant": "adm", "network.clock": "time"}),
}


def content_of(case, change=lambda tensors: tensors):
    tensors = {name: np.broadcast_to(np.float32(0), shape) for name, shape in SHAPES[case].items()}
    return Content(CASES[case][0](change(tensors)), DIFFUSERS if case == "diffusers" else {}, Path("file"))


def abstract_of(checkpoint):
    config = resolve(checkpoint.config)
    model = build_model(config, checkpoint.image_shape, checkpoint.num_classes)
    optimizers = build_optimizers(config, model)
    return abstract_state(model, optimizers, checkpoint.image_shape, checkpoint.num_classes)


@pytest.mark.parametrize("case", CASES)
def test_a_published_file_fills_our_network_and_nothing_is_left_over(case):
    checkpoint = understand(content_of(case))
    abstract = abstract_of(checkpoint)
    variables = checkpoint.variables(abstract)  # or it says what is missing or superfluous
    sizes = [leaf.size for leaf in jax.tree.leaves(variables.params)]
    buffers = {name for name in SHAPES[case] if name.endswith("resample_filter") or name == "sigmas"}
    theirs = {name: np.prod(shape) for name, shape in SHAPES[case].items() if name not in buffers}
    assert sum(sizes) == sum(theirs.values())


@pytest.mark.parametrize("case", CASES)
def test_a_published_file_means_the_shipped_preset(case):
    known = recognize(content_of(case))
    _, preset, others = CASES[case]
    name, _, chosen = preset.partition(":")
    wanted = resolve(load_config(shipped_configs() / f"{name}.py", chosen))
    for field, value in others.items():
        section, _, last = ("model." + field).rpartition(".")
        target = wanted
        for key in section.split("."):
            target = target[key]
        target[last] = value
    found = resolve(config_of(known, {}))
    assert found["model"] == wanted["model"]
    if case != "edm_ddpmpp_conditional":
        assert found == wanted
    assert (known.image_shape, known.num_classes) == ((32, 32, 3), 10 if "conditional" in case else None)


def test_missing_superfluous_and_misshapen_tensors_are_told_together():
    def spoil(tensors):
        left = {name: t for name, t in tensors.items() if name not in ("map_layer1.bias", "dec.8x8_in0.proj.weight")}
        qkv, wide = np.zeros((700, 256, 1, 1)), np.zeros((128, 4, 3, 3))
        return {**left, "map_layer2.bias": np.zeros(3), "dec.8x8_in0.qkv.weight": qkv, "dec.32x32_aux_conv.weight": wide}

    checkpoint = understand(content_of("edm_ddpmpp", spoil))
    with pytest.raises(InputError) as raised:
        checkpoint.variables(abstract_of(checkpoint))
    told = str(raised.value)
    assert "missing: map_layer1.bias, dec.8x8_in0.proj.weight;" in told
    assert "superfluous: map_layer2.bias;" in told
    assert "dec.32x32_aux_conv.weight of 128x4x3x3 for our conv_out/kernel of 3x3x256x3" in told
    assert "dec.8x8_in0.qkv.weight of 700x256x1x1" in told


def test_of_many_misfits_some_are_named_and_the_others_counted():
    shapes = {f"layer{i}": {"kernel": jax.ShapeDtypeStruct((2,), np.float32)} for i in range(12)}
    with pytest.raises(InputError, match=r"missing: .*layer1\.weight, .* and 7 more$"):
        fill(shapes, of_table({f"layer{i}": Layer(f"layer{i}", unets.TORCH) for i in range(12)}), {})


def test_old_names_of_diffusers_attention_are_known():
    old = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}

    def rename(tensors):
        return {
            next((n.replace(f".{a}.", f".{b}.") for a, b in old.items() if f".{a}." in n), n): t for n, t in tensors.items()
        }

    content = content_of("diffusers", rename)
    assert "mid_block.attentions.0.proj_attn.weight" in content.tree
    checkpoint = understand(content)
    checkpoint.variables(abstract_of(checkpoint))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("norm_eps", 1e-5),
        ("attention_head_dim", 8),
        ("freq_shift", 0),
        ("block_out_channels", [64, 128, 128, 128]),
        ("out_channels", 6),
    ],
)
def test_a_network_of_diffusers_that_ours_is_not_is_refused(field, value):
    content = content_of("diffusers")
    with pytest.raises(InputError, match="imported"):
        understand(content._replace(config={**DIFFUSERS, field: value}))
    silent = {name: DIFFUSERS[name] for name in DIFFUSERS if name not in ("norm_eps", "freq_shift", "attention_head_dim")}
    with pytest.raises(InputError, match="attention_head_dim=8"):
        understand(content._replace(config=silent))


def test_overrides_say_what_a_file_does_not():
    known = understand(content_of("score_sde_ddpmpp"), {"model.sde": "sub_vp"})
    assert (known.config["model"]["sde"], known.step) == ("sub_vp", 7)


def test_what_no_importer_knows_is_refused():
    for tree in ({}, {"ema": 3}, [], {"model": {}, "ema": {}}, {"params_ema": {"kernel": np.zeros(3)}}):
        with pytest.raises(InputError, match="no checkpoint of a code known here"):
            recognize(Content(tree, {}, Path("file")))
