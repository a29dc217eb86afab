"""Flow matching, rectified flow and minibatch optimal transport (Lipman et al. 2022, https://arxiv.org/abs/2210.02747).

Noise goes to an image along a straight line, at even speed. With t = 0 at the image and t = 1 at the noise (in the papers it is
the other way round; rectified flow is Liu et al. 2022, https://arxiv.org/abs/2209.03003),

    x_t = (1 - t) x0 + t eps,    dx_t / dt = eps - x0,

and a network learns the velocity, of which it can only know the mean over all lines through x_t:

    loss = E |v(x_t, t) - (eps - x0)|^2                                                            (Lipman et al., eq. 23).

The ODE dx = v(x, t) dt then makes an image of noise, or noise of an image, and has densities (`diffusion.ode`).

Papers differ in which times count. Uniform ones are those of both; logit-normal ones see the middle more often (Esser et al.
2024, https://arxiv.org/abs/2403.03206, section 3.1); log-normal ones, ln(sigma / alpha) = ln(t / (1 - t)) normal in EDM's way,
see images with little noise.

And in which noise goes with which image. Independent of it, or handed out over a batch so that the lines are short: minibatch
optimal transport (Tong et al. 2024, https://arxiv.org/abs/2302.00482; Pooladian et al. 2023, https://arxiv.org/abs/2304.14772).
The lines then cross less, and the flow is straighter. `models.reflow` goes on from there.
"""

from typing import Any, Literal

import jax
import jax.numpy as jnp

from gm_jax.conditioning import classes_of
from gm_jax.core import Batch, Model, Objective, streams
from gm_jax.denoising import make_predictor, model_of, training_inputs
from gm_jax.diffusion import losses
from gm_jax.diffusion.coupling import optimal_transport
from gm_jax.diffusion.losses import DrawTime, denoising_loss
from gm_jax.diffusion.paths import Path, flow_path
from gm_jax.nets.backbones import backbone
from gm_jax.settings import Count, Decay, Positive, Section, checked


def times_of(name: str, path: Path, mean: float, std: float) -> DrawTime:
    """The distribution of training times of that name: "uniform", or one of that mean and standard deviation."""
    return {
        "uniform": lambda: losses.uniform(path),
        "logit_normal": lambda: losses.logit_normal(path, mean, std),
        "log_normal": lambda: losses.log_normal(path, mean, std),
    }[name]()


@checked
def make(
    image_shape: tuple[int, ...],
    num_classes: int | None = None,
    dtype: Any = jnp.float32,
    axis_name: str | None = None,
    *,
    network: Section("network") = {"name": "unet"},  # noqa: B006 (read only)
    times: Literal["uniform", "logit_normal", "log_normal"] = "uniform",
    time_mean: float = 0.0,
    time_std: Positive = 1.0,
    coupling: Literal["independent", "optimal_transport"] = "independent",
    sampler: str = "euler",
    steps: Count = 100,
    class_conditional: bool = False,
    label_dropout: Decay = 0.1,
) -> Model:
    """Flow matching on images of `image_shape`, or on points; the defaults are the I-CFM of Tong et al. on CIFAR-10.

    Args:
      network: see `nets.backbones`; by default told 999 t.
      times: of training; time_mean, time_std: of the logarithm of t / (1 - t), where these are not uniform.
      coupling: of noise and images, in each batch; see `diffusion.coupling.optimal_transport`.
      sampler, steps: in sampling, unless options say otherwise.
      class_conditional, label_dropout: tell the network the label, but for this share of the batch (Ho & Salimans 2022).

    Sampling options: `sampling.sampling_of`. Raises InputError for settings that do not fit.
    """
    path, classes = flow_path(), classes_of(num_classes, class_conditional)
    net = backbone(network, image_shape, dtype, num_classes=classes)
    predictor = make_predictor(path, net, "velocity", "time_999", classes)
    draw_time = times_of(times, path, time_mean, time_std)

    def loss(params, state, key, batch: Batch, *, step, train):
        x, labels, _, eps = training_inputs(batch, train, classes, label_dropout)
        if coupling == "optimal_transport":
            eps = optimal_transport(x, eps, axis_name)
        t = jax.vmap(draw_time)(*streams(batch.keys, "time"))
        answer = predictor.answer(params["network"], labels, train=train, key=key)
        value = denoising_loss(path, "velocity", answer, x, t, eps).mean()
        return value, (state, {"mse": value})

    return model_of(
        "flow_matching",
        image_shape,
        path,
        predictor,
        (Objective("flow_matching", loss),),
        sampling={"sampler": sampler, "steps": steps, "spacing": "uniform"},
        ode_spacing="uniform",
        num_classes=classes,
        label_dropout=label_dropout,
    )
