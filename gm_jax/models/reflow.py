"""Reflow: a flow straightened by one that has been learnt (Liu et al. 2022, https://arxiv.org/abs/2209.03003, algorithm 1).

A teacher's ODE couples noise and images: each noise eps with the image x0 that it becomes. A student learns the straight lines
between these pairs,

    loss = E |v(x_t, t) - (eps - x0)|^2,    x_t = (1 - t) x0 + t eps,

as `flow_matching` does. Lines between such pairs cross less than between independent ones, and the student's flow is
straighter (`diffusion.coupling.straightness`): few steps of Euler are enough, or one. To `distill` is to learn from t = 1
alone, from where one step goes: x0 is predicted from eps (section 2.3; the authors' distance on CIFAR-10 is LPIPS, here the
square).

The teacher's weights are the state "teacher", put there by `train.init_from`; the student may begin from them too:

    --config.train.init_from=state/teacher=WORKDIR:ema,params=WORKDIR:ema

Pairs are made anew for every batch, where the authors made a set of them beforehand: `teacher_steps` is what they cost.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from gm_jax.core import Batch, Key, Model, Objective, Variables, streams
from gm_jax.denoising import make_predictor, model_of
from gm_jax.diffusion import losses, plans, samplers
from gm_jax.diffusion.losses import denoising_loss
from gm_jax.diffusion.paths import Denoiser, Images, Path, flow_path
from gm_jax.errors import InputError
from gm_jax.nets.backbones import backbone
from gm_jax.settings import Count, Section, checked


@checked
def make(
    image_shape: tuple[int, ...],
    build: Any,
    dtype: Any = jnp.float32,
    *,
    teacher: Section("model") = {"name": "flow_matching"},  # noqa: B006 (read only)
    network: Section("network") = {"name": "unet"},  # noqa: B006 (read only)
    teacher_sampler: str = "heun",
    teacher_steps: Count = 20,
    distill: bool = False,
    sampler: str = "euler",
    steps: Count = 1,
) -> Model:
    """A flow that is straightened by the model `teacher`, any unconditional one of noise.

    Args:
      teacher: its settings, those of the run that its weights are taken from.
      network: the student's, see `nets.backbones`; by default told 999 t.
      teacher_sampler, teacher_steps: how the teacher makes images of noise, by a solver of `diffusion.plans.DETERMINISTIC`.
      distill: learn one step alone.
      sampler, steps: in sampling, unless options say otherwise.

    Sampling options: `sampling.sampling_of`. Raises InputError for settings that do not fit.
    """
    model = build(teacher, image_shape)
    if model.diffusion is None or model.num_classes is not None:
        raise InputError(f"teacher.name={teacher['name']}: reflow needs an unconditional model of noise")
    images_of = pairing(model.diffusion.path, teacher_sampler, teacher_steps)
    path = flow_path()
    predictor = make_predictor(path, backbone(network, image_shape, dtype), "velocity", "time_999")
    draw_time = (lambda key: jnp.float32(path.t_max)) if distill else losses.uniform(path)

    def init(key: Key, batch: Batch) -> Variables:
        own, others = streams(key, "student", "teacher")
        params, state = model.init(others, batch)
        if jax.tree.leaves(state):
            raise InputError(f"teacher.name={teacher['name']}: reflow keeps no state but a teacher's parameters")
        return Variables({"network": predictor.init(own, batch.x)}, {"teacher": params})

    def loss(params, state, key, batch: Batch, *, step, train):
        noise_keys, time_keys = streams(batch.keys, "noise", "time")
        eps = samplers.normal(noise_keys, batch.x.shape[1:])
        x0 = jax.lax.stop_gradient(images_of(model.diffusion.denoiser(Variables(state["teacher"])), batch.keys, eps))
        answer = predictor.answer(params["network"], train=train, key=key)
        value = denoising_loss(path, "velocity", answer, x0, jax.vmap(draw_time)(time_keys), eps).mean()
        return value, (state, {"mse": value})

    student = model_of(
        "reflow",
        image_shape,
        path,
        predictor,
        (Objective("reflow", loss),),
        sampling={"sampler": sampler, "steps": steps, "spacing": "uniform"},
        ode_spacing="uniform",
    )
    return student._replace(init=init)


def pairing(path: Path, sampler: str, steps: int) -> Callable[[Denoiser, Key, Images], Images]:
    """(denoiser, keys, eps) -> the images that the denoiser's ODE makes of the noise. Raises InputError for other solvers."""
    if sampler not in plans.DETERMINISTIC:
        raise InputError(f"teacher_sampler={sampler!r} is none that follows an ODE; choose {', '.join(plans.DETERMINISTIC)}")
    try:
        spacing = "uniform" if path.alpha(path.t_max) == 0 else "karras"
        plan = plans.plan(path, dict(plans.SAMPLERS), sampler, steps, spacing)
    except ValueError as error:
        raise InputError(f"teacher_sampler={sampler!r}: {error}") from None

    def images_of(denoiser: Denoiser, keys: Key, eps: Images) -> Images:
        return samplers.simulate(keys, plan.sampler(path, denoiser), path.sigma(plan.times[0]) * eps, plan.times)

    return images_of
