"""The report's plots, each a small SVG: training curves, metrics over training, quality against cost, sweeps."""

import io
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from gm_jax.report import tables
from gm_jax.report.names import OTHER, REPRESENTATION, is_distance, meaning
from gm_jax.report.runs import Reported

# told apart by colour-blind eyes
COLOURS = ["#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#555555", "#8c564b"]
LOG_RANGE = 10  # a positive quantity that spans more than this factor is drawn on a logarithmic axis
SETTLED = 0.05  # the first part of a training curve does not determine its axis
IMAGES = "training images seen"
STYLE = {
    "svg.hashsalt": "gm_jax",  # the same numbers give the same bytes
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "grid.color": "#e5e5e5",
    "legend.frameon": False,
    "legend.fontsize": 8,
}


class Plot(NamedTuple):
    title: str
    svg: bytes


Line = tuple[str, str, Sequence[float], Sequence[float], dict[str, Any]]  # label, colour, x, y, further options of Axes.plot


def colours(runs: Sequence[Reported]) -> dict[str, str]:
    """Label -> colour, the same in all plots."""
    return {run.label: COLOURS[i % len(COLOURS)] for i, run in enumerate(runs)}


def training_curves(runs: Sequence[Reported]) -> list[Plot]:
    """The loss of each objective over the images seen, on training batches and (dashed) on held-out images."""
    palette = colours(runs)
    objectives = {key.removeprefix("heldout/") for run in runs for line in run.log for key in line if key.endswith("/loss")}
    plots = []
    for name in sorted(objectives):
        lines: list[Line] = []
        for run in runs:
            lines.append((run.label, palette[run.label], *_logged(run, name), {}))
            style = {"linestyle": "--", "marker": ".", "markersize": 4}
            lines.append((f"{run.label}, held out", palette[run.label], *_logged(run, f"heldout/{name}"), style))
        plots += _plot(name, IMAGES, "loss", lines, _focus)
    return plots


def metrics_over_training(runs: Sequence[Reported]) -> list[Plot]:
    """Proxy metrics of metrics.jsonl, and metrics that were measured at several checkpoints, over the images seen."""
    palette = colours(runs)
    plots = []
    proxies = {key for run in runs for line in run.log for key in line if key.startswith("proxy/")}
    for name in sorted(proxies):
        lines = [(run.label, palette[run.label], *_logged(run, name), {"marker": "."}) for run in runs]
        plots += _plot(f"{name.removeprefix('proxy/')} (proxy)", IMAGES, "", lines)
    for (name, conditions), of_runs in tables.entries([run.summary for run in runs]).items():
        lines = []
        for run, entries in zip(runs, of_runs, strict=True):
            for way in _unique([entry.get("sampling") for entry in entries]):
                measured = (e for e in entries if e.get("sampling") == way and e["value"] is not None)
                of_way = sorted(measured, key=lambda e: e["step"])
                if len({entry["step"] for entry in of_way}) > 1:
                    x = [entry["step"] * run.summary["config"]["train"]["batch_size"] for entry in of_way]
                    y = [float(entry["value"]) for entry in of_way]
                    lines.append((_way_label(run, way), palette[run.label], x, y, {"marker": "o"}))
        column = tables.Column(name, json.loads(conditions))
        plots += _plot(name, IMAGES, column.conditions, lines)
    return plots


def quality_against_cost(runs: Sequence[Reported]) -> list[Plot]:
    """The Fréchet distance over the network evaluations a sample, where they differ; the dashed line is that of real images."""
    palette = colours(runs)
    summaries = [run.summary for run in runs]
    plots = []
    for (name, conditions), of_runs in tables.entries(summaries).items():
        column = tables.Column(name, json.loads(conditions))
        lines = []
        for run, entries in zip(runs, of_runs, strict=True):
            last = max((entry.get("step") or 0 for entry in entries), default=0)
            judged = [entry for entry in entries if "nfe" in entry and (entry.get("step") or 0) == last]
            for sampler in _unique([_sampler(entry) for entry in judged]):
                points = sorted((e["nfe"], float(e["value"])) for e in judged if _sampler(e) == sampler)
                style = {"marker": "osD^v"[len(lines) % 5], "linestyle": ":"}
                lines.append((_way_label(run, sampler), palette[run.label], *_transposed(points), style))
        if is_distance(name) and len({nfe for line in lines for nfe in line[2]}) > 1:
            floor = tables.floors(column, summaries)
            plots += _plot(name, "network evaluations a sample (NFE)", column.conditions, lines, _log_x(floor))
    return plots


def sweeps(runs: Sequence[Reported]) -> list[Plot]:
    """Runs of one model that differ in a single number, at three values or more: what it does to the main metrics."""
    plots = []
    kinds = _unique([run.summary["config"]["model"]["name"] for run in runs])
    for model in kinds:
        members = [run for run in runs if run.summary["config"]["model"]["name"] == model]
        differing = list(zip(tables.differences([run.summary for run in members]), members, strict=True))
        for key in sorted({key for own, _ in differing for key in own}):
            for rest in _unique([_without(own, key) for own, _ in differing]):  # a family shares all else
                family = [(own.get(key), run) for own, run in differing if _without(own, key) == rest]
                values = [value for value, _ in family]
                if len(set(values)) >= 3 and all(isinstance(value, int | float) for value in values):
                    label = ", ".join([model, *(f"{name.removeprefix('model.')}={value}" for name, value in rest.items())])
                    plots += _sweep(label, f"{key.removeprefix('model.')} of {model}", values, [run for _, run in family])
    return plots


def _without(fields: dict[str, Any], key: str) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if name != key}


def _sweep(label: str, x: str, values: Sequence[float], runs: Sequence[Reported]) -> list[Plot]:
    summaries = [run.summary for run in runs]
    plots = []
    for (name, conditions), of_runs in tables.entries(summaries).items():
        found = meaning(name)
        column = tables.Column(name, json.loads(conditions))
        cells = [tables.cell(es, s["steps"]) for es, s in zip(of_runs, summaries, strict=True)]
        points = [(value, cell.value) for value, cell in zip(values, cells, strict=True) if cell.value is not None]
        if len(points) >= 3 and (found.main or found.group in (REPRESENTATION, OTHER.group)):
            line = (label, COLOURS[0], *_transposed(sorted(points)), {"marker": "o"})
            plots += _plot(name, x, column.conditions, [line], _log_x(tables.floors(column, summaries)))
    return plots


def _logged(run: Reported, key: str) -> tuple[list[float], list[float]]:
    """Images seen and values of a key of metrics.jsonl; None (not finite) leaves a gap."""
    batch_size = run.summary["config"]["train"]["batch_size"]
    lines = [line for line in run.log if key in line]
    return [line["step"] * batch_size for line in lines], [math.nan if line[key] is None else line[key] for line in lines]


def _plot(title: str, x: str, y: str, lines: Sequence[Line], arrange: Callable[[Axes], None] | None = None) -> list[Plot]:
    """One plot of the lines that have points; none if there are none."""
    lines = [line for line in lines if len(line[2])]
    if not lines:
        return []
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(4.6, 3.1), layout="constrained")
        axes = figure.add_subplot()
        for label, colour, xs, ys, options in lines:
            axes.plot(xs, ys, label=label, color=colour, linewidth=1.3, **options)
        axes.set(xlabel=x, ylabel=y, title=title)
        if _wide([value for line in lines for value in line[3]]):
            _make_logarithmic(axes, axes.yaxis)
        if x == IMAGES:
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))  # 20k, 3M
        if arrange:
            arrange(axes)
        if len(lines) > 5:  # beside the curves, which it would hide
            axes.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), fontsize=7)
        else:
            axes.legend()
        buffer = io.BytesIO()
        FigureCanvasSVG(figure).print_svg(buffer, metadata={"Date": None})
    return [Plot(title, buffer.getvalue())]


def _wide(values: Sequence[float]) -> bool:
    finite = [value for value in values if math.isfinite(value)]
    return bool(finite) and min(finite) > 0 and max(finite) > LOG_RANGE * min(finite)


def _make_logarithmic(axes: Axes, axis: Axis) -> None:
    """Ticks at 1, 2, 5, 10, ... written plainly; at powers of ten only where the range is wide."""
    axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = axis.get_data_interval()
    axis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 300 * low else (1,)))
    axis.set_major_formatter("{x:,.4g}")
    axis.set_minor_formatter(NullFormatter())


def _focus(axes: Axes) -> None:
    """Fits a linear axis to the curves after their first, steep part."""
    settled = [np.asarray(line.get_ydata(), float)[math.ceil(SETTLED * len(line.get_ydata())) :] for line in axes.lines]
    values = np.concatenate(settled)
    values = values[np.isfinite(values)]
    if axes.get_yscale() == "linear" and len(values) > 1 and np.ptp(values) > 0:
        margin = 0.05 * np.ptp(values)
        axes.set_ylim(values.min() - margin, values.max() + margin)


def _log_x(floor: Sequence[tables.Entry]) -> Callable[[Axes], None]:
    """A logarithmic x axis where the points span a wide range, and the values of real images as dashed lines."""

    def arrange(axes: Axes) -> None:
        if _wide([x for line in axes.lines for x in line.get_xdata()]):
            _make_logarithmic(axes, axes.xaxis)
        for entry in floor:
            label = f"real images, n={entry['n']}"
            axes.axhline(float(entry["value"]), color="#333333", linewidth=1, linestyle="--", label=label)

    return arrange


def _transposed(points: Sequence[tuple[float, float]]) -> tuple[list[float], list[float]]:
    return [x for x, _ in points], [y for _, y in points]


def _unique(values: Sequence[Any]) -> list[Any]:
    return [value for i, value in enumerate(values) if value not in values[:i]]


def _sampler(entry: tables.Entry) -> dict[str, Any]:
    """How an entry was sampled, but for the number of steps and what goes with it."""
    return {key: value for key, value in entry.get("sampling", {}).items() if key not in ("steps", "inner_steps", "epsilon")}


def _way_label(run: Reported, way: dict[str, Any] | None) -> str:
    return run.label + "".join(f", {key}={value}" for key, value in (way or {}).items())
