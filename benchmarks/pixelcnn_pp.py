"""PixelCNN++ and gated PixelCNN on images: the cached sampler against the plain one, a pass over the image for every pixel.

    python -m benchmarks.pixelcnn_pp [--samples=16] [--size=16] [--rounds=3]

Both networks are narrower than those of the papers (PixelCNN++: 32 channels and two layers at each of three resolutions), and
the images smaller: at 32x32 the plain sampler of the paper's PixelCNN++ needs a quarter of an hour of two CPU cores an image.
Checks that both samplers draw the same images, of weights that are initialised on noise.
"""

from functools import partial

import jax
import numpy as np

from benchmarks.measure import OURS, compare, main
from gm_jax.nets.autoregressive import fill, fill_naive, pixel_network
from gm_jax.system.devices import jit

NETWORKS = {
    "PixelCNN++": {"name": "pixelcnn_pp", "channels": 32, "num_layers": 2},
    "gated PixelCNN": {"name": "gated", "channels": 32, "num_layers": 6},
}


def rows(options):
    shape = (options.size, options.size, 3)
    images = np.random.default_rng(0).integers(0, 256, (options.samples, *shape), dtype=np.uint8)
    keys, known = jax.random.split(jax.random.key(1), options.samples), np.zeros(shape[:2], bool)
    for name, settings in NETWORKS.items():
        network = pixel_network(settings, shape)
        params = jax.jit(network.init)(jax.random.key(0), images)

        def sampler(function, network=network, params=params):
            compiled = jit(partial(function, network))
            return lambda: np.asarray(compiled(params, keys, images, known))

        variants = {OURS: sampler(fill), "one pass over the image per pixel": sampler(fill_naive)}
        ours, naive = (run() for run in variants.values())  # compiles
        same = (ours == naive).all((1, 2, 3))  # a level that rounding decides changes all that follow
        assert same.mean() > 0.8, f"only {same.sum()} of {len(same)} images are the same"
        what = f"{name} sampling, {options.size}x{options.size}x3, batch {options.samples}"
        yield compare(what, "batch", variants, rounds=options.rounds)


if __name__ == "__main__":
    main(rows, __doc__, rounds=3, samples=16, size=16)
