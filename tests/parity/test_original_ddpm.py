"""Our U-Net against a few numbers that the authors' own TensorFlow network of DDPM (Ho et al. 2020) gave for a small one.

The recipe is that of `unets`: images `recipes.normal("x", shape)` in float32, weights `tests.weights.drawn`, none of them zero.
The width is 128 channels because the original's GroupNorms have 32 groups always, and ours have as many from that width on.

How the numbers were computed: `diffusion_tf/models/unet.py` and `diffusion_tf/nn.py` of github.com/hojonathanho/diffusion at
commit 1e0dceb3b3495bbe19116a5e1b3596cd0706c543, unchanged, in TensorFlow 2.21.0 on a CPU through `tensorflow.compat.v1` with
`disable_v2_behavior()`. The code is of TensorFlow 1.15, whose `tensorflow.contrib.layers.group_norm` is `tf_slim`'s (1.1.0).
`model(x, t=[0, 10, 500, 999], y=None, num_classes=1, ch=128, out_ch=3, ch_mult=(1, 2), num_res_blocks=1,
attn_resolutions=(8,), dropout=0)`, t in int32, with every variable set by NumPy alone, in its own shape and layout, from the
generator of our path of the same parameter:

    temb/dense0, conv_in, norm_out, conv_out       time/dense0, conv_in, norm_out, conv_out
    down_1/block_0, down_0/downsample/conv         down1_block0, down0_downsample (likewise up)
    mid/block_1, mid/attn_1, mid/block_2           middle_block0, middle_attention, middle_block1
    down_1/attn_0/norm, q, k, v, proj_out          down1_block0_attention/norm, query, key, value, out
    norm1, conv1, temb_proj, norm2, conv2          norm0, conv0, time, norm1, conv1
    nin_shortcut; W, b, gamma, beta                shortcut; kernel, bias, scale, bias

All variables have a parameter of ours with that name and shape, and the other way round. All numbers of the output differed
from ours by 2.7e-6 of the largest, here and in the configuration of the paper (35,746,307 parameters, 32x32). Of each image
the root mean square and five numbers are kept.
"""

import numpy as np

from tests.parity import unets
from tests.parity.comparison import difference
from tests.parity.goldens import numbers, read, values
from tests.parity.unet_weights import Sizes

SIZES = Sizes(channels=128, multipliers=(1, 2), blocks=1, attention=8, image=16)


def test_output_is_that_of_the_original_network():
    comparison, golden = unets.COMPARISONS["output"](SIZES), read("parity_ddpm_tf")["output"]
    assert comparison.inputs == golden["inputs"]
    ours = {name: np.array(value) for name, value in numbers(comparison.ours()).items()}
    assert difference(ours, values(golden), relative=True) <= comparison.tolerance
