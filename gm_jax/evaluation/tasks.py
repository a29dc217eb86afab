"""The tasks of `eval.py`: by name, checked before anything is computed, their results merged into results.json."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gm_jax.errors import InputError
from gm_jax.evaluation import extractors, latents, pictures, results
from gm_jax.evaluation.classes import classes, has_classes
from gm_jax.evaluation.completion import completion
from gm_jax.evaluation.context import Context, Task
from gm_jax.evaluation.cost import cost
from gm_jax.evaluation.cost import default_n as default_n_of_cost
from gm_jax.evaluation.latent import has_posterior, latent
from gm_jax.evaluation.likelihood import likelihood
from gm_jax.evaluation.neighbours import neighbours
from gm_jax.evaluation.plane import has_density, points
from gm_jax.evaluation.quality import default_n, quality
from gm_jax.evaluation.reconstruction import reconstructions
from gm_jax.evaluation.solvers import default_n as default_n_of_solvers
from gm_jax.evaluation.solvers import solvers
from gm_jax.evaluation.straightness import has_straight_lines, straightness

NEEDS = {  # what a task may ask of a model -> whether the model has it
    "samples": pictures.has_samples,
    "images": lambda c: not c.points,
    "known density": has_density,
    "picture": pictures.has_picture,
    "encoder": lambda c: c.model.encode is not None,
    "decoder": lambda c: c.model.decode is not None,
    "continuous latent": pictures.latent_is_continuous,
    "denoiser": lambda c: c.model.diffusion is not None,
    "path of straight lines": has_straight_lines,
    "completion": lambda c: c.model.complete is not None,
    "denoising trajectory": lambda c: c.model.trajectory is not None,
    "likelihood": lambda c: bool(c.model.likelihoods),
    "posterior": has_posterior,
    "latents to draw": latents.has_latents,
    "latents in layers": latents.has_layers,
    "truncation": latents.has_truncation,
    "classes": has_classes,
    "grey or RGB images": lambda c: not c.points and c.dataset.image_shape[-1] in (1, 3),
}
OF_THE_DATA = ("classes", "grey or RGB images", "images", "known density", "picture")

_PICTURE, _AUTOENCODER = ("grey or RGB images",), ("encoder", "decoder")

TASKS = {
    "samples": Task(
        pictures.samples,
        "n samples in a grid, or points in a plot",
        64,
        ("picture", "samples"),
        sampler=True,
        default_n=lambda c: 5000 if c.points else 64,
    ),
    "reconstructions": Task(
        reconstructions,
        "n test images over their reconstructions; errors over the test split",
        16,
        (*_PICTURE, *_AUTOENCODER),
        images_per_n=1,
    ),
    "interpolation": Task(
        pictures.interpolation,
        "n pairs of test images and the way between their latents",
        8,
        (*_PICTURE, *_AUTOENCODER, "continuous latent"),
        images_per_n=2,
    ),
    "walk": Task(
        latents.walk,
        "n ways between the latents of two samples, for each space of latents",
        8,
        (*_PICTURE, "latents to draw"),
    ),
    "truncation": Task(
        latents.truncation,
        "n samples from latents that are truncated at several bounds",
        10,
        (*_PICTURE, "truncation"),
        sampler=True,
    ),
    "style_mixing": Task(
        latents.style_mixing,
        "the coarse layers of n samples with the fine layers of n others",
        6,
        (*_PICTURE, "latents in layers"),
    ),
    "denoising": Task(
        pictures.denoising,
        "n samples on their way from noise, as a strip and as an animation",
        16,
        ("picture", "denoising trajectory"),
        sampler=True,
        default_n=lambda c: 2000 if c.points else 16,
    ),
    "completion": Task(
        completion,
        "n test images, their upper halves, and images that the model makes of these",
        8,
        (*_PICTURE, "completion"),
        images_per_n=1,
        sampler=True,
    ),
    "likelihood": Task(
        likelihood,
        "negative log-likelihood of n test images, nats and bits/dim",
        256,
        ("likelihood",),
        images_per_n=1,
        scales=True,
    ),
    "latent": Task(
        latent,
        "mutual information, rate and use of the latents of n training images, by default all",
        50_000,
        ("posterior",),
        default_n=lambda c: len(c.dataset.x_train),
    ),
    "quality": Task(
        quality,
        "Frechet distance, KID, precision, recall ... of n samples, and of real images",
        1000,
        ("images", "samples"),
        sampler=True,
        judges=True,
        scales=True,
        default_n=default_n,
    ),
    "classes": Task(
        classes,
        "how many of the classes n samples show, and how evenly, by a classifier",
        10_000,
        ("images", "classes", "samples"),
        sampler=True,
        scales=True,
    ),
    "points": Task(
        points,
        "how far n points are from their exact density, and which modes they find",
        10_000,
        ("known density", "samples"),
        sampler=True,
        scales=True,
    ),
    "solvers": Task(
        solvers,
        "n samples by every solver at several costs: distance, and error beside the ODE's solution",
        256,
        ("denoiser", "samples"),
        sampler=True,
        judges=True,
        slow=True,
        default_n=default_n_of_solvers,
    ),
    "straightness": Task(
        straightness,
        "how straight the way of n samples from noise is",
        256,
        ("path of straight lines",),
        scales=True,
    ),
    "neighbours": Task(
        neighbours,
        "n samples beside the nearest training images, by pixels and by features",
        12,
        (*_PICTURE, "samples"),
        images_per_n=1,
        sampler=True,
        judges=True,
    ),
    "cost": Task(
        cost,
        "parameters, FLOPs, time and memory: of training, and of drawing n samples at once",
        64,
        ("samples",),
        sampler=True,
        default_n=default_n_of_cost,
    ),
}


def help_text() -> str:
    """One line a task: its name, what it makes, its default n."""
    lines = [f"{name:<16} {task.help} (n={task.n})" for name, task in TASKS.items()]
    return "\n".join([*lines, f"{'all':<16} all of these that the model can do"])


def evaluate(names: Sequence[str], context: Context) -> dict[str, Any]:
    """Runs tasks in order and merges what they measured into `context.out`/results.json after each.

    "all" stands for every task that the model can do; n then holds for those that scale only. Returns what this run wrote:
    {"metrics": {name: entry}, "pictures": {file: entry}, "skipped": {task: why}}, where only "all" skips. Raises InputError,
    before anything is computed, for an unknown task, one that the model cannot do, an n beyond the test split, sampling options
    that the model refuses, and an output folder or results.json that cannot be used.
    """
    everything = "all" in names
    tasks = {name: _find(name) for name in (TASKS if everything else dict.fromkeys(names))}
    if not tasks:
        raise InputError(f"no task given; known tasks: {', '.join([*TASKS, 'all'])}")
    obstacles = {name: why for name, task in tasks.items() if (why := _obstacle(task, context))}
    if everything:
        obstacles = {name: "takes long; ask for it by name" for name, task in tasks.items() if task.slow} | obstacles
    if obstacles and not everything:
        name, why = next(iter(obstacles.items()))
        can_do = [name for name, task in TASKS.items() if not _obstacle(task, context)]
        raise InputError(f"cannot do task {name}: {why}; it can do: {', '.join(can_do) or 'none'}")
    if not context.points and any(task.judges for name, task in tasks.items() if name not in obstacles):
        try:
            extractors.choose(context.judging, context.dataset)
        except InputError as error:
            if not everything:
                raise
            obstacles |= {name: str(error) for name, task in tasks.items() if task.judges}
    if everything:
        obstacles |= {name: why for name, task in tasks.items() if (why := _too_few(task, context))}
    counts = {name: _count(name, task, context, everything) for name, task in tasks.items() if name not in obstacles}
    contexts = {name: context._replace(n=n) for name, n in counts.items()}
    if any(tasks[name].sampler for name in contexts):
        _check_options(context)
        context.drawn_labels(1)
    path = _check_output(context)

    written: dict[str, Any] = {"metrics": {}, "pictures": {}, "skipped": obstacles}
    for name, task_context in contexts.items():
        measured = dict(tasks[name].fn(task_context._replace(progress=task_context.stage(name))))
        origin = results.provenance(task_context, name, tasks[name])
        files = dict.fromkeys(measured.pop("pictures", []), origin)
        metrics = {metric: results.with_origin(entry, origin) for metric, entry in measured.items()}
        results.merge(path, metrics, files)
        written["metrics"] |= metrics
        written["pictures"] |= files
    return written


def _find(name: str) -> Task:
    if name in TASKS:
        return TASKS[name]
    known = [*TASKS, "all"]
    nearest = difflib.get_close_matches(name, known, n=1, cutoff=0)[0]
    raise InputError(f"unknown task {name!r}; did you mean {nearest!r}? Known tasks: {', '.join(known)}")


def _obstacle(task: Task, context: Context) -> str | None:
    missing = next((need for need in task.needs if not NEEDS[need](context)), None)
    whose = context.dataset.name if missing in OF_THE_DATA else context.model_name
    return f"{whose} has no {missing}" if missing else None


def _too_few(task: Task, context: Context) -> str:
    images = len(context.dataset.x_test)
    return f"the test split has {images} examples, {task.images_per_n} are needed" if images < task.images_per_n else ""


def _count(name: str, task: Task, context: Context, everything: bool) -> int:
    """n, checked against the test split; a default gives way to a small split, the user's number does not, unless to "all"."""
    if context.n is not None and context.n < 1:
        raise InputError(f"n is {context.n}; give at least 1")
    asked = context.n if task.scales or not everything else None
    default = task.default_n(context) if task.default_n else task.n
    if not task.images_per_n:
        return asked or default
    images = len(context.dataset.x_test)
    most = images // task.images_per_n
    if most < 1 or ((asked or 0) > most and not everything):
        raise InputError(f"task {name}: the test split has {images} images, enough for n={most}; n={asked or task.n} asked")
    return min(asked or default, most)


def _check_options(context: Context) -> None:
    """`nfe` takes the options of `sample` and costs nothing: bad ones come to light here."""
    if context.model.nfe is None:
        return
    try:
        context.model.nfe(**context.options)
    except InputError:
        raise
    except (TypeError, ValueError) as error:
        reason = str(error).rpartition("() ")[2]  # without Python's name for the function
        raise InputError(f"{context.model_name} refuses the sampling options {dict(context.options)}: {reason}") from error


def _check_output(context: Context) -> Path:
    path = context.out / "results.json"
    try:
        context.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot write into {context.out} ({error.strerror}); choose another output folder") from error
    results.read(path)
    return path
