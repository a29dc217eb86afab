"""The report: one HTML file that holds everything it shows, and the same tables in Markdown."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import jinja2

import gm_jax
from gm_jax.report import gallery, plots, published, tables
from gm_jax.report.names import meaning
from gm_jax.report.runs import Reported, provenance

LEGEND = (
    'A column is one protocol. ± is a standard error, with "s.d." a standard deviation over sets, subsets or splits of the '
    'samples; **bold** is the best of a column. "not run": not measured for this run, or not offered by its model. '
    '"real images": what images of the other split get in place of samples.'
)


class DataSet(NamedTuple):
    """What the report says of one data set."""

    name: str
    runs: list[Reported]
    table: tables.Table
    costs: tuple[list[str], list[list[str]]]
    published: list[published.Source]
    plots: list[tuple[str, str, list[plots.Plot]]]  # heading, explanation, plots
    pictures: list[gallery.Section]

    @property
    def groups(self) -> list[tuple[str, int]]:
        """Groups of the table's columns, with how many columns each has."""
        names = [meaning(column.name).group for column in self.table.columns]
        return [(group, names.count(group)) for group in dict.fromkeys(names)]


PLOTS = {
    "Quality over training": (plots.metrics_over_training, ""),
    "Quality against sampling cost": (plots.quality_against_cost, "The lower left is better."),
    "Sweeps": (plots.sweeps, "Runs of one model that differ in one hyperparameter only."),
    "Training curves": (
        plots.training_curves,
        "Losses of different models are different quantities. Linear axes leave out the first, steep part.",
    ),
}


def collect(runs: Sequence[Reported]) -> list[DataSet]:
    """The contents of the report, data set by data set: numbers of different data never meet."""
    found = []
    for name, members in tables.by_data_set([run.summary for run in runs]).items():
        of_data = [runs[i] for i in members]
        labelled = {run.label: run.summary for run in of_data}
        models = {run.summary["config"]["model"]["name"] for run in of_data}
        drawn = [(title, text, draw(of_data)) for title, (draw, text) in PLOTS.items()]
        found.append(
            DataSet(
                name=name,
                runs=of_data,
                table=tables.build(labelled),
                costs=tables.costs(labelled),
                published=published.of(name, models),
                plots=[part for part in drawn if part[2]],
                pictures=gallery.sections(of_data),
            )
        )
    return found


def html(data_sets: Sequence[DataSet], remarks: Sequence[str] = ()) -> str:
    """The page, with `remarks` at its top. It loads nothing from anywhere else, and its content policy forbids it."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("gm_jax.report"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    context: dict[str, Any] = {
        "data_sets": data_sets,
        "remarks": remarks,
        "version": gm_jax.__version__,
        "meaning": meaning,
        "figures": published.figures,
        "data_uri": gallery.data_uri,
        "provenance": provenance,
        "absent": tables.ABSENT,
    }
    return environment.get_template("page.html.j2").render(context)


def markdown(data_sets: Sequence[DataSet], remarks: Sequence[str] = ()) -> str:
    """The tables of the page, and its remarks."""
    parts = ["# Report", *(f"**{remark}**" for remark in remarks), "Pictures and plots are in `index.html`.", LEGEND]
    for data in data_sets:
        parts += [f"## {data.name}", "### Measured", tables.markdown_of(data.table)]
        if data.published:
            names = published.figures(data.published)
            rows = [
                [system["system"], *(system.get(name, "-") for name in names), source.protocol, source.source]
                for source in data.published
                for system in source.systems
            ]
            heads = ["system", *names, "protocol", "source"]
            parts += ["### Published, other protocols (not measured here)", tables.markdown(heads, rows)]
        parts += ["### Costs", tables.markdown(*data.costs)]
    return "\n\n".join(part.rstrip("\n") for part in parts) + "\n"
