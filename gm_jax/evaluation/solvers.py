"""Every solver of a noise-based model at several numbers of network evaluations: its error, and how good its samples are."""

import io
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from gm_jax.data.toys import TOYS
from gm_jax.diffusion import plans
from gm_jax.errors import InputError
from gm_jax.evaluation import extractors
from gm_jax.evaluation.context import Context
from gm_jax.evaluation.plane import exact_masses
from gm_jax.evaluation.quality import real
from gm_jax.evaluation.scatter import PALETTE
from gm_jax.images import to_uint8
from gm_jax.metrics.extractor import extract
from gm_jax.metrics.frechet import distance_of_samples
from gm_jax.metrics.judge import metric_name
from gm_jax.metrics.points import histogram_distance
from gm_jax.system.files import write_atomically

REFERENCE = {"sampler": "unipc", "order": 3, "steps": 1000}
BUDGETS = (5, 10, 15, 20, 50)  # network evaluations, without those that guidance adds
WARM_UP = 64  # samples that are drawn before the others, so that these are timed without compilation
KEPT = ("guidance_scale", "guidance_interval")  # options of sampling that hold for all solvers


class Way(NamedTuple):
    """A way to sample, and what came of it."""

    options: Mapping[str, Any]
    nfe: int
    error: float | None  # None for a solver that follows no ODE
    distance: float
    seconds: float  # for all n samples, compilation not included

    @property
    def label(self) -> str:
        return self.options.get("sampler", "default")


def solvers(context: Context) -> dict[str, Any]:
    """solvers.png and solvers.md: over the number of network evaluations, `solver_error` and a distance, for every solver.

    `solver_error_SOLVER_NFE`: the root mean square difference, in units of pixels in [-1, 1], from what 1000 steps of UniPC-3
    make of the same noise; of deterministic solvers alone. `solver_DISTANCE_SOLVER_NFE`: the Frechet distance of n
    samples to the reference images (of points: of their histogram to the exact density). Solvers are on the model's own grid
    for them; of the sampling options given, guidance alone is kept. The model's own way to sample is among the rows.
    """
    name, distance = judge_of(context)
    kept = {key: value for key, value in context.options.items() if key in KEPT}
    context = context._replace(batch_size=min(WARM_UP, context.batch_size))
    exact, _ = drawn(context, kept | REFERENCE)
    ways = [measured(context, options, exact, distance) for options in ways_of(context, kept)]
    write_atomically(context.out / "solvers.png", picture(ways, name))
    write_atomically(context.out / "solvers.md", table(ways, name).encode())
    return {"pictures": ["solvers.png"]} | entries(ways, name)


def ways_of(context: Context, kept: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The options of the model's own way, then of every solver at the most steps for each of BUDGETS."""
    found = [dict(kept)]
    for sampler in plans.SAMPLERS:
        at = {steps_within(context, sampler, budget, kept) for budget in BUDGETS} - {0}
        found += [kept | {"sampler": sampler, "steps": steps} for steps in sorted(at)]
    return found


def steps_within(context: Context, sampler: str, budget: int, kept: Mapping[str, Any]) -> int:
    """The most steps that cost no more evaluations than `budget` unguided; 0 where the model has no such way."""
    unguided = partial(context.model.nfe, sampler=sampler)
    for steps in range(budget, 0, -1):
        try:
            if unguided(steps=steps) <= budget:
                context.model.nfe(sampler=sampler, steps=steps, **kept)
                return steps
        except InputError:
            continue
    return 0


def judge_of(context: Context) -> tuple[str, Callable[[np.ndarray], float]]:
    """The name of the distance, and the distance of samples as the model gives them."""
    if context.points:
        masses, toy = exact_masses(context.dataset), TOYS[context.dataset.name]
        return f"histogram_distance_{context.n}", lambda x: histogram_distance(x, masses, toy.box)
    extractor, split = extractors.choose(context.judging, context.dataset), context.judging["reference"]
    statistics = real(context, extractor, split).statistics
    name = metric_name("fid", extractor.name, context.n, split)
    return name, lambda x: distance_of_samples(extract(extractor, np.asarray(to_uint8(x))).features, statistics)


def drawn(context: Context, options: Mapping[str, Any]) -> tuple[np.ndarray, float]:
    """n samples, of the same keys whatever the options, and the seconds that drawing them took."""

    def draw(variables, keys, labels):
        return context.model.sample(variables, keys, labels, **options)

    def run(n):
        return context.map(draw, n, context.drawn_labels(n))

    run(min(context.n, context.batch_size))  # compiles
    start = time.perf_counter()
    return run(context.n), time.perf_counter() - start


def measured(context: Context, options: Mapping[str, Any], exact: np.ndarray, distance: Callable) -> Way:
    x, seconds = drawn(context, options)
    follows = options.get("sampler") in plans.DETERMINISTIC
    error = float(np.sqrt(np.mean((x - exact) ** 2, dtype=np.float64))) if follows else None
    return Way(options, context.model.nfe(**options), error, distance(x), seconds)


# --- what is shown ------------------------------------------------------------------------------------------------------------


def entries(ways: Sequence[Way], name: str) -> dict[str, Any]:
    """Metrics by their names."""
    found = {}
    for way in ways:
        place, origin = f"{way.label}_{way.nfe}", {"sampling": dict(way.options), "nfe": way.nfe}
        found[f"solver_{name}_{place}"] = {"value": way.distance} | origin
        if way.error is not None:
            found[f"solver_error_{place}"] = {"value": way.error, "reference": "unipc of order 3, 1000 steps"} | origin
    return found


def table(ways: Sequence[Way], name: str) -> str:
    """Markdown: a row a way, how fast and how good it is beside the model's own, which is the first."""
    own = ways[0]
    lines = [
        f"| solver | steps | evaluations | error | {name} | beside the model's own | relative speed |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    for way in ways:
        steps, error = way.options.get("steps", ""), "" if way.error is None else f"{way.error:.2g}"
        change, speed = way.distance - own.distance, own.seconds / way.seconds
        lines.append(f"| {way.label} | {steps} | {way.nfe} | {error} | {way.distance:.3g} | {change:+.2g} | {speed:.3g} |")
    return "\n".join(lines) + "\n"


def picture(ways: Sequence[Way], name: str) -> bytes:
    """A PNG of two plots over the number of evaluations, both axes logarithmic: the error, and the distance."""
    figure = Figure(figsize=(11, 4.2), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    plots = figure.subplots(1, 2)
    labels = list(dict.fromkeys(way.label for way in ways[1:]))
    for i, label in enumerate(labels):
        style = {
            "label": label,
            "color": PALETTE[i % len(PALETTE)] / 255,
            "linestyle": ("-", "--", ":")[i // len(PALETTE)],
            "marker": ".",
        }
        of_label = [way for way in ways if way.label == label]
        lines = ([(w.nfe, w.error) for w in of_label if w.error is not None], [(w.nfe, w.distance) for w in of_label])
        for plot, line in zip(plots, lines, strict=True):
            if line:
                plot.plot(*np.transpose(line), **style)
    plots[1].axhline(ways[0].distance, color="#888888", linewidth=1, label=f"the model's own, {ways[0].nfe} evaluations")
    for plot, title in zip(plots, ("error, beside 1000 steps of UniPC-3", name), strict=True):
        plot.set(title=title, xlabel="network evaluations", xscale="log", yscale="log")
        plot.set_xticks(BUDGETS, map(str, BUDGETS))
        plot.xaxis.set_minor_locator(NullLocator())
        plot.grid(color="#e5e5e5")
    plots[1].legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def default_n(context: Context) -> int:
    """Few on a CPU, where all of it takes minutes so."""
    few = 2000 if context.points else 256
    return few if jax.default_backend() == "cpu" else min(10_000, len(context.dataset.x_train))
