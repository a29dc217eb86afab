"""Imported networks against a few numbers that the authors' own networks gave: so that each tensor is where it belongs.

The recipe, by the names of the published tensors: n of NumPy's `default_rng(crc32(name))`, standard normal, divided by the root
of the product of all but the first axis; of vectors 0.1 n, and 1 more where the name ends in weight, scale, gamma or alpha.
Frozen frequencies are drawn, too; `sigmas` are the code's own. Three images x = normal("x", [3, 32, 32, 3]) (alpha / 2 + sigma)
in float32 at small, middle and large noise; EDM's DDPM++ is told the labels 3, 0 and 7. Kept are of (x - alpha x0) / sigma,
where sigma is below alpha, and else of x0, the root mean square and every 601st number, six of them.

How they were computed: the networks of the codes that test_importers.py names (commits: edm 008a4e5, score_sde_pytorch cb1f359,
ncsn 7f27f4a, ncsnv2 1bcea03, conditional-flow-matching cacd4dc, consistency_models_cifar10 d086e77), with 32 channels times
(1, 2) and one block a level (RefineNets: 8 channels and 10 or 12 levels; torchcfm: 128 channels times (1, 1)), and x0 by their
own preconditioning or score (torchcfm: x - t v).
"""

import gzip
import json
import zlib
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.build import build_model, resolve
from gm_jax.pretrained.formats import Content
from gm_jax.pretrained.loading import understand
from gm_jax.training.optimizers import build_optimizers
from gm_jax.training.start import abstract_state
from tests.parity.recipes import normal
from tests.pretrained.test_importers import CASES
from tests.x64 import x64

GOLDEN = json.loads(gzip.decompress((Path(__file__).parent / "files/answers.json.gz").read_bytes()))


def recipe(name, shape):
    n = np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)
    if len(shape) > 1:
        return np.float32(n / np.sqrt(np.prod(shape[1:])))
    return np.float32(0.1 * n + name.endswith(("weight", "scale", "gamma", "alpha")))


def tree_of(case, tensors):
    """What the file holds; the sigmas of NCSNv2 are those of its twelve levels."""
    if case == "ncsnv2":
        first, last, levels = GOLDEN[case]["sigmas"]
        return [{**tensors, "sigmas": np.geomspace(first, last, levels)}, {}, 1, 7, tensors]
    return CASES[case][0](tensors)


@pytest.mark.parametrize("case", GOLDEN)
def test_an_imported_network_answers_as_its_authors(case):
    golden = GOLDEN[case]
    tensors = {name: recipe(name, shape) for name, shape in golden["shapes"].items()}
    checkpoint = understand(Content(tree_of(case, tensors), {}, Path("file")))
    config = resolve(checkpoint.config)
    model = build_model(config, checkpoint.image_shape, checkpoint.num_classes)
    optimizers = build_optimizers(config, model)
    variables = checkpoint.variables(abstract_state(model, optimizers, checkpoint.image_shape, checkpoint.num_classes))
    labels = None if golden.get("labels") is None else jnp.array(golden["labels"])

    t, alpha, sigma = (np.array(golden[name]) for name in ("t", "alpha", "sigma"))
    a, s = alpha[:, None, None, None], sigma[:, None, None, None]
    x = np.float32(normal("x", (3, 32, 32, 3)) * (0.5 * a + s))
    with x64():  # little noise is known from the difference of two images
        x0 = np.asarray(model.diffusion.denoiser(variables, labels)(jnp.asarray(x, jnp.float64), jnp.asarray(t)))
    answers = np.where(s < a, (x - a * x0) / s, x0)
    for answer, wanted in zip(answers, golden["answers"], strict=True):
        found = [np.sqrt((answer**2).mean()), *np.ravel(answer)[::601][:6]]
        np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-4 * max(np.abs(wanted)))
