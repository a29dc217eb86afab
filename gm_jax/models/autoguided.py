"""Autoguidance: guiding a diffusion model with a bad version of itself (Karras et al. 2024, https://arxiv.org/abs/2406.02507).

Two noise-based models of the same data, on the same path and with the same labels or none, of which "weak" is the smaller or
less trained one. Where they differ, the good one is right, and can be made more so (eq. 3):

    D(x; sigma) = D_weak(x; sigma) + guidance_scale (D_main(x; sigma) - D_weak(x; sigma)).

Both are trained side by side here; or the weak one is grafted from an earlier checkpoint (train.init_from) and its learning
rate is 0.
"""

from typing import Any

from gm_jax.compose import join, part, within
from gm_jax.core import Batch, Diffusion, Key, Labels, Model, Variables, streams
from gm_jax.denoising import known_labels
from gm_jax.diffusion import guidance
from gm_jax.diffusion.paths import Denoiser
from gm_jax.errors import InputError
from gm_jax.sampling import Guidance, Guide, sampling_of
from gm_jax.settings import Count, Section, checked


@checked
def make(
    image_shape: tuple[int, ...],
    build: Any,
    *,
    main: Section("model") = {"name": "edm"},  # noqa: B006 (read only)
    weak: Section("model") = {"name": "edm"},  # noqa: B006 (read only)
    guidance_scale: float = 2.0,
    sampler: str = "heun",
    steps: Count = 18,
    spacing: str = "karras",
) -> Model:
    """A noise-based model guided by a weaker one.

    Args:
      main, weak: the settings of the two.
      guidance_scale: in sampling, unless an option says otherwise; 1 is none.
      sampler, steps, spacing: in sampling, unless options say otherwise.

    Its parts, "main" and "weak", are groups of parameters, trained by objectives of these names. NFE counts the passes of both.
    Latents and likelihoods are the main model's. Raises InputError for parts that have no noise, other times or other labels.
    """
    parts = {"main": build(main, image_shape), "weak": build(weak, image_shape)}
    good, bad = parts["main"], parts["weak"]
    if good.diffusion is None or bad.diffusion is None or good.num_classes != bad.num_classes:
        raise InputError("autoguidance needs two models of noise, both conditional or both not; change main or weak")
    path, other = good.diffusion.path, bad.diffusion.path
    if (path.t_min, path.t_max) != (other.t_min, other.t_max):
        raise InputError("autoguidance needs two models on one path; give main and weak the same noise")

    def init(key: Key, batch: Batch) -> Variables:
        keys = dict(zip(parts, streams(key, *parts), strict=True))
        return join(**{name: model.init(keys[name], batch) for name, model in parts.items()})

    def denoiser(variables: Variables, labels: Labels | None = None) -> Denoiser:
        return good.diffusion.denoiser(part(variables, "main"), labels)

    def denoiser_of(variables: Variables, keys: Key, labels: Labels | None, guide: Guide) -> Denoiser:
        labels = known_labels(keys, labels, num_classes=good.num_classes, taught_marginal=False)
        worse = bad.diffusion.denoiser(part(variables, "weak"), labels)
        return guidance.autoguidance(denoiser(variables, labels), worse, *guide)

    defaults = {"sampler": sampler, "steps": steps, "spacing": spacing}
    guides = Guidance(none=1.0, default=guidance_scale)
    of_main = lambda fn: lambda variables, *rest, **options: fn(part(variables, "main"), *rest, **options)  # noqa: E731
    return Model(
        init=init,
        objectives=tuple(
            within(o, name, rename=name if len(model.objectives) == 1 else f"{name}_{o.name}")
            for name, model in parts.items()
            for o in model.objectives
        ),
        **sampling_of("autoguided", image_shape, path, denoiser_of, defaults, guidance=guides)._asdict(),
        encode=None if good.encode is None else of_main(good.encode),
        decode=None if good.decode is None else of_main(good.decode),
        num_classes=good.num_classes,
        likelihoods=tuple(term._replace(fn=of_main(term.fn)) for term in good.likelihoods),
        diffusion=Diffusion(path, denoiser),
    )
