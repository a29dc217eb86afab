"""docs/parity.md from the lines that `record` has written: `python tests/parity/page.py build/parity.jsonl docs/parity.md`."""

import json
import sys
from pathlib import Path

PACKAGES = {"diffusers", "prdc", "pytorch-fid", "scikit-image", "torch-fidelity", "vector-quantize-pytorch"}

HEAD = """\
# Parity with independent implementations

The same inputs, weights and noise, given to this project and to packages that others have written. "Largest difference" is over
all numbers that were compared, in the units of the result, or relative to the largest number of each array where it says so;
"agrees to" is what the test demands. Written by `make parity`.

| what | peer (version) | inputs | largest difference | agrees to |
| --- | --- | --- | --- | --- |
"""

FOOT = """
To repeat it, run `make parity`: it installs the peers (the extra `parity`; PyTorch is among them), runs `tests/parity` and
writes this page. `python -m pytest tests/parity` runs the comparisons alone, those with packages that are installed. Inputs and
weights come from named NumPy generators (`tests/parity/recipes.py`, `tests/weights.py`), so nothing is downloaded. A few
numbers of the peers on small inputs are in `tests/golden/parity_*.json`, and every run of the tests compares with them, without
the peers; `GM_JAX_PARITY_WRITE=1 python -m pytest tests/parity/test_goldens_live.py` asks the peers for them again.

Compared by hand, as it needs TensorFlow: the U-Net of the authors' own code of DDPM (github.com/hojonathanho/diffusion at
commit 1e0dceb, in TensorFlow 2.21.0) with the same weights gives our output, to 2.7e-06 relative, in the configuration of the
paper (35,746,307 parameters; 4 images of 32x32, t = 0, 10, 500, 999; float32). Its numbers for a small network are in
`tests/golden/parity_ddpm_tf.json`, which the command above leaves alone; `tests/parity/test_original_ddpm.py` has the recipe.

So with PixelCNN++ (github.com/openai/pixel-cnn at commit bbc1568, in TensorFlow 2.21.0): told labels, with 8 channels at 8x8x3,
its answers, nats and gradients agree to 5.5e-07, 3.2e-07 and 7.4e-05 relative (float32); the network of CIFAR-10 has 53,659,080
parameters there, and 53,863,880 with labels (`tests/parity/test_original_pixelcnn.py`).

Of flows (`tests/parity/test_original_flows.py`): Glow of two levels of two steps, told labels, beside the authors' code
(github.com/openai/glow at commit 91b2c57, in TensorFlow 2.21.0), nats, latents and gradients to 6.9e-08, 2.2e-07 and 8.2e-07
relative; that of CIFAR-10 has 44,603,604 parameters there, of which 82,944 are multiplied by zeros for ever and are not here.
MAF of two layers beside `MaskedAutoregressiveFlow` of TensorFlow Probability 0.25.0, nats, samples and gradients to 0, 6.8e-08
and 4.3e-07 relative (all float32).

Compared by hand too, with the authors' own code at the commits that the goldens name, as it is no package (PyTorch, on a CPU):

| what | peer | largest difference |
| --- | --- | --- |
| DDPM++ and NCSN++, answers and gradients; 32 channels, 16x16 | NVlabs/edm `SongUNet` | 8.8e-07, 6.1e-06 relative |
| the same | yang-song/score_sde_pytorch `NCSNpp` | 1.1e-06, 4.8e-06 relative |
| the same, answers in the papers' sizes | both | 1.5e-06 relative |
| geometric augmentation, 132 images of three sizes; its labels | NVlabs/edm `AugmentPipe` | 1.9e-05; 1.2e-07 |
| EDM's train step with labels: loss, gradients | NVlabs/edm `EDMPrecond`, `EDMLoss` | 1.2e-07, 5.3e-06 relative |
| EDM's sampler, 18 steps, without and with churn, float64 | NVlabs/edm `edm_sampler` | 1.0e-15 relative |
| score SDEs' train steps (three SDEs, both weights) | score_sde_pytorch `get_sde_loss_fn` | 2.2e-07, 6.4e-06 relative |
| Euler-Maruyama (VP, sub-VP), 19 steps, float64 | score_sde_pytorch `EulerMaruyamaPredictor` | 1.2e-15 relative |
| predictor-corrector (VE), 20 steps, one image, float64 | score_sde_pytorch `LangevinCorrector` | 1.4e-15 relative |
| likelihood by the ODE (VP, a Gaussian); latents | score_sde_pytorch `get_likelihood_fn` | 5e-06 bits/dim; 1.5e-05 relative |
| L_hybrid, L_vlb: loss, gradients | openai/improved-diffusion `training_losses` | 4.7e-07, 1.2e-06 relative |
| probabilities of steps | openai/improved-diffusion `LossSecondMomentResampler` | 2.3e-07 relative |
| flow matching's train step: loss, gradients | torchcfm (1.0.7) `ConditionalFlowMatcher` | 0, 1.6e-05 relative |
| minibatch optimal transport, 128 images and noises | torchcfm (1.0.7) `OTPlanSampler` | the same pairs |
| VDM's train step, 128 channels, 8x8: loss, gradients | google-research/vdm `VDM` | 2.5e-06, 1.7e-04 relative |
| the same, in part in float64 | google-research/vdm `VDM` | 5.3e-07, 1.5e-05 relative |
| VDM's step of sampling; its monotone schedule | google-research/vdm `VDM`, `NoiseSchedule_NNet` | 3.7e-07 relative; 3.0e-08 |
| DiT, answers and gradients; 32 channels, 8x8 | facebookresearch/DiT `DiT` | 2.4e-06, 1.5e-05 relative |
| DiT-S/2, the same; 32x32 | facebookresearch/DiT `DiT` | 3.7e-06, 2.1e-05 relative |
| U-ViT, answers and gradients; 32 channels, 8x8 | baofff/U-ViT `UViT` | 4.4e-07, 1.2e-06 relative |
| U-ViT-S/2, the same; 32x32 | baofff/U-ViT `UViT` | 1.5e-06, 1.8e-06 relative |
| Transformer prior, logits, gradients; 32 channels | karpathy/nanoGPT `GPT`, tanh in GELU | 3.3e-07, 1.2e-06 relative |
| VQ-VAE-2, answers, gradients; 16 channels, 16x16 | rosinality/vq-vae-2-pytorch `VQVAE` | 4.2e-07, 2.1e-06 relative |
| BigGAN's step, 8 channels: losses, gradients | ajbrock/BigGAN-PyTorch, both, `loss_hinge` | 1.8e-07, 3.4e-06 relative |
| SN-GAN's step on DCGAN's networks, 4 channels | w86763777/pytorch-gan-collections, `Hinge` | 4.6e-07, 3.3e-06 relative |
| WGAN-GP's step, 8 channels, with its penalty | pytorch-gan-collections, `cacl_gradient_penalty` | 1.1e-07, 1.5e-06 relative |
| StyleGAN2's step, 8 channels, 16x16: losses, R1, gradients | NVlabs/stylegan2-ada-pytorch, both | 9.6e-06 relative |
| R3GAN's networks, answers and gradients; 16 channels, 16x16 | brownvc/R3GAN, both | 8.5e-07, 2.2e-06 relative |
| the same, answers in the paper's size | brownvc/R3GAN | 2.3e-06 relative |
| VDVAE's train step, five groups, 8x8: loss, gradients | openai/vdvae `VAE`, in float64 | 1.8e-07, 1.4e-06 relative |

Numbers of the networks, the augmentation and improved DDPM are in `tests/golden`, and those of VDM in its test; the tests have
the recipes. VDM is compared with pixels as they are here, k / 127.5 - 1.
Their bound of a chain differs by up to 8e-04 relative: its discretized Gaussian has an approximate distribution function, ours
the exact one. So with VDVAE's mixture of logistics where a level's probability is below 1e-5: with narrow logistics its loss
differs by 7.3e-06 relative, its gradients by up to 2.2e-03.

What differs on purpose: diffusers' `DDPMScheduler` adds noise in the last step, too, where fewer steps than the chain's make
that start above node 1; samplers here never do, and the comparison sets that noise to zero. diffusers' DDIM, unless told, keeps
the eps that belonged to x0 before it was clipped; here eps always fits the clipped x0. The schedulers' tables are float32; for
the comparison they are made float64. DPM-Solver++'s of third order take half of the
second derivative; here that is the option `authors`. Norms in the authors' Langevin corrector are means over the batch, here
they are of each image. EDM's code replaces gradients that are not finite; here they stop a run. torch-fidelity draws the
subsets of KID and the order of the images of an inception score from another generator; the comparison gives both the same. In
precision and recall points on the edge of a ball count as inside here and in torch-fidelity, not in prdc. torch-fidelity's
resize computes positions in float32; here they are float64.
"""


def page(lines: list[dict]) -> str:
    """The page, a row a comparison, by package. Raises SystemExit where a peer is not among them or a comparison failed."""
    if missing := PACKAGES - {line["package"] for line in lines}:
        raise SystemExit(f"nothing was compared with {', '.join(sorted(missing))}; install the extra parity")
    if failed := [line["what"] for line in lines if line["difference"] > line["tolerance"]]:
        raise SystemExit(f"these did not agree: {', '.join(failed)}")
    return HEAD + "".join(map(_row, sorted(lines, key=lambda line: (line["package"], line["what"], line["inputs"])))) + FOOT


def _row(line: dict) -> str:
    unit = " relative" if line["relative"] else ""
    peer = f"{line['package']} ({line['version']}) `{line['function']}`"
    difference, tolerance = (f"{line[name]:.1e}{unit}" if line[name] else "0" for name in ("difference", "tolerance"))
    return f"| {line['what']} | {peer} | {line['inputs']} | {difference} | {tolerance} |\n"


if __name__ == "__main__":
    records, target = map(Path, sys.argv[1:])
    target.write_text(page([json.loads(line) for line in records.read_text().splitlines()]))
