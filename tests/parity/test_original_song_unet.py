"""DDPM++ and NCSN++ against a few numbers that the authors' own PyTorch networks gave: those of EDM and those of score SDE.

The recipe: images `recipes.normal("x", shape)`, targets `recipes.normal("eps", shape)`, weights `tests.weights.drawn`, all in
float32; compared are the answers and the gradients of their mean squared error. Two images of 16x16x3; 32 channels times
(1, 2), one block, attention at 8, no dropout. What the sinusoids or the frequencies are multiplied by is -1.2 and 0.9, for
score SDE's DDPM++ 10 and 900. EDM's DDPM++ is told the labels 0 and 1 of ten and nine numbers `recipes.normal("told", ...)`
of augmentation, its NCSN++ those alone.

How the numbers were computed: `SongUNet` of training/networks.py of NVlabs/edm, with label_dim, augment_dim, model_channels=32,
channel_mult=[1, 2], num_blocks=1, attn_resolutions=[8] and, for NCSN++, embedding_type="fourier", encoder_type="residual",
channel_mult_noise=2, resample_filter=[1, 3, 3, 1]; `NCSNpp` of models/ncsnpp.py of yang-song/score_sde_pytorch with
configs/vp/cifar10_ddpmpp_continuous.py and configs/ve/cifar10_ncsnpp_continuous.py in these sizes, scale_by_sigma off, and its
compiled operations replaced by the native ones beside them; the commits stand in the golden. Every parameter of theirs was set
from ours of the same place, and none of either is left over: queries, keys and values lie interleaved in EDM's `qkv`.

All numbers differed from ours by at most 1.2e-6 (answers) and 6.1e-6 (gradients) of the largest, and in the papers' sizes (128
channels, 32x32) the answers by 1.5e-6. Kept are the answers and the gradients of some layers: their root mean square and five
numbers of each.
"""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.nets.backbones import backbone
from tests.parity.comparison import difference
from tests.parity.goldens import numbers, read, values
from tests.parity.recipes import normal
from tests.weights import drawn

SIZES = {"channels": 32, "channel_multipliers": (1, 2), "num_res_blocks": 1, "attention_resolutions": (8,), "dropout": 0.0}
NCSNPP = {"embedding": "fourier", "encoder": "residual"}
SHAPE, TIMES = (2, 16, 16, 3), np.float32([-1.2, 0.9])
# name -> settings, times, entries of the condition, classes among them
CASES = {
    "DDPM++, EDM": ({}, TIMES, 19, 10),
    "NCSN++, EDM": (NCSNPP, TIMES, 9, None),
    "DDPM++, score SDE": ({}, np.float32([10, 900]), 0, None),
    "NCSN++, score SDE": (NCSNPP, TIMES, 0, None),
}


def condition_of(size, num_classes):
    classes = num_classes or 0
    told = normal("told", (SHAPE[0], size - classes))
    return np.float32(np.concatenate([np.eye(SHAPE[0], classes), told], axis=1)) if size else None


@pytest.mark.parametrize("name", CASES)
def test_answers_and_gradients_are_those_of_the_authors_networks(name):
    settings, t, size, num_classes = CASES[name]
    net = backbone({"name": "song_unet", **SIZES, **settings}, SHAPE[1:], num_classes=num_classes)
    x, target, condition = np.float32(normal("x", SHAPE)), np.float32(normal("eps", SHAPE)), condition_of(size, num_classes)
    params = drawn(jax.eval_shape(net.init, jax.random.key(0), x, t, condition))

    def loss(params):
        answer = net.apply(params, x, t, condition)
        return jnp.mean((answer - target) ** 2), answer

    gradients, answer = jax.jit(jax.grad(loss, has_aux=True))(params)
    ours = {f"image {i}": np.asarray(image) for i, image in enumerate(answer)}
    golden = values(read("parity_song_unet")[name])
    for layer in golden.keys() - ours.keys():
        leaves = gradients
        for key in layer.split("/"):
            leaves = leaves[key]
        ours[layer] = np.concatenate([np.ravel(leaves[key]) for key in sorted(leaves)])
    found = {layer: np.array(value) for layer, value in numbers(ours).items()}
    assert difference(found, golden, relative=True) <= 2e-5
