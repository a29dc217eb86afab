"""Runs beside each other: a table a data set, a column a protocol, a row a run and way of sampling.

A summary is what `gm_jax.report.summary.summarize` gives. All that an entry of results.json says beyond its outcome is
protocol, unless it belongs to the row (the sampler) or to the cell (seed, step). So numbers that were measured in different
ways never share a column, whatever fields later metrics bring.
"""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from gm_jax.evaluation import results
from gm_jax.report.names import FLOOR, LIKELIHOOD, RECONSTRUCTION, meaning, order, unit
from gm_jax.training.workdirs import FREE, flatten

Entry = dict[str, Any]
Summary = dict[str, Any]

OUTCOME = {*results.OUTCOME, "std", "per_class", "seconds"}
OF_THE_ROW = {"sampling", "nfe"}
OF_THE_CELL = {"task", "seed", "step", "unit", "of"}
COSTS = {  # metrics of results.json that say what a run costs: heading, and the unit it counts in
    "cost_seconds_per_1000_samples": ("s / 1000 samples", 1),
    "cost_network_flops_per_image": ("GFLOP / network evaluation", 1e9),
    "cost_sample_flops_per_image": ("GFLOP / sample", 1e9),
    "cost_train_flops_per_image": ("GFLOP / trained image", 1e9),
    "cost_train_mfu": ("MFU in training, %", 0.01),
    "cost_compile_seconds": ("compilation of the sampler, s", 1),
    "cost_sampler_memory_bytes": ("memory of the sampler, MB", 1e6),
    "cost_peak_device_memory_bytes": ("peak device memory, MB", 1e6),
    "cost_peak_process_memory_bytes": ("peak memory of the process, MB", 1e6),
}
ABSENT = "not run"


class Column(NamedTuple):
    """One protocol."""

    name: str
    protocol: Mapping[str, Any]
    distinction: str = ""  # what tells it from a column that else reads the same

    @property
    def words(self) -> str:
        """What is measured, in which unit."""
        return ", ".join(part for part in (meaning(self.name).words, unit(self.name)) if part)

    @property
    def conditions(self) -> str:
        """The protocol beyond the name, in few words."""
        plain = {
            k: v for k, v in self.protocol.items() if k not in ("kind", "options", "split", "n", "weights") and v is not None
        }
        rounded = {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in plain.items()}
        extra = [f"{key}={value}" for key, value in rounded.items() if not isinstance(value, Mapping)]
        options = [f"{key}={value}" for key, value in self.protocol.get("options", {}).items()]
        extractor = self.protocol.get("extractor", {}).get("name", "")
        if extractor.removeprefix("inception") not in self.name:
            extra.append(extractor)
        n = f"n={self.protocol['n']}" if "n" in self.protocol else ""
        first = [self.protocol.get("kind"), *options, self.protocol.get("split"), n, self.protocol.get("weights")]
        return ", ".join(str(part) for part in [*first, *extra, self.distinction] if part)


class Cell(NamedTuple):
    text: str  # the number with its error, or "not run"
    note: str = ""  # what sets it apart from its column: another step, seed or n
    value: float | None = None
    best: bool = False


class Row(NamedTuple):
    label: str
    note: str  # how it was sampled
    cells: tuple[Cell, ...]
    floor: bool = False  # real images instead of a model's


class Table(NamedTuple):
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]


def data_set(summary: Summary) -> str:
    """The name of the data, with the size if it was resized."""
    data = summary["config"]["data"]
    return data["name"] + (f" at {data['resize']}x{data['resize']}" if data.get("resize") else "")


def differences(summaries: Sequence[Summary]) -> list[dict[str, Any]]:
    """For each run the fields of its config, "model.beta", by which it differs from the others of the same model and data."""
    configs = [dict(flatten(s["config"])) for s in summaries]
    found = []
    for config, summary in zip(configs, summaries, strict=True):
        same = [c for c, s in zip(configs, summaries, strict=True) if _kind(s) == _kind(summary)]
        bearing = [key for key in config if key == "train.steps" or not key.startswith(FREE)]
        found.append({key: config[key] for key in bearing if any(other.get(key) != config[key] for other in same)})
    return found


def _kind(summary: Summary) -> tuple[str, str]:
    return summary["config"]["model"]["name"], data_set(summary)


def labels(summaries: Sequence[Summary]) -> list[str]:
    """A name for each run: its model, and the hyperparameters, or other fields, by which it differs from its like."""
    found = []
    for summary, own in zip(summaries, differences(summaries), strict=True):
        shown = {key.removeprefix("model."): value for key, value in own.items() if key.startswith("model.")} or own
        name = summary["config"]["model"]["name"]
        found.append(", ".join([name, *(f"{key}={value}" for key, value in list(shown.items())[:3])]))
    return found


def labelled(summaries: Sequence[Summary]) -> dict[str, Summary]:
    """Runs by their labels; equal ones are numbered."""
    found: dict[str, Summary] = {}
    for label, summary in zip(labels(summaries), summaries, strict=True):
        number_of = sum(other == label or other.startswith(f"{label} #") for other in found) + 1
        found[label if number_of == 1 else f"{label} #{number_of}"] = summary
    return found


def protocol(entry: Entry) -> dict[str, Any]:
    """The fields of an entry that must be equal for two numbers to be comparable."""
    return {k: v for k, v in entry.items() if k not in OUTCOME | OF_THE_ROW | OF_THE_CELL}


def entries(summaries: Sequence[Summary]) -> dict[tuple[str, str], list[list[Entry]]]:
    """(metric, protocol as JSON) -> for each run its entries of that column, in the order of the table; no costs.

    A floor has no column of its own, unless its metric was measured nowhere: under another n, say.
    """
    found: dict[tuple[str, str], list[list[Entry]]] = {}
    measured = {name for summary in summaries for name in summary["metrics"]}
    for i, summary in enumerate(summaries):
        for name, of_name in summary["metrics"].items():
            base = name.removesuffix(FLOOR)
            if name.startswith("cost_") or (base != name and base in measured):
                continue
            for entry in of_name:
                conditions = {k: v for k, v in protocol(entry).items() if base == name or k not in ("real", "weights")}
                of_runs = found.setdefault((base, json.dumps(conditions, sort_keys=True)), [[] for _ in summaries])
                of_runs[i] += [entry] if base == name else []
    return dict(sorted(found.items(), key=lambda item: (order(item[0][0]), item[0][1])))


def by_data_set(summaries: Sequence[Summary]) -> dict[str, list[int]]:
    """Data set -> indices of its runs."""
    found: dict[str, list[int]] = {}
    for i, summary in enumerate(summaries):
        found.setdefault(data_set(summary), []).append(i)
    return found


def build(labelled: Mapping[str, Summary], main: bool = False) -> Table:
    """The table of runs on one data set; with `main` only of the metrics that matter most."""
    found = entries(list(labelled.values()))
    found = {key: of_runs for key, of_runs in found.items() if meaning(key[0]).main or not main}
    rows = []
    for i, (label, summary) in enumerate(labelled.items()):
        of_run = [of_runs[i] for of_runs in found.values()]
        ways = _ways([entry for column in of_run for entry in column])
        for way in ways:  # what needs no sampler stands in the first row of the run
            chosen = [[e for e in column if e.get("sampling", ways[0]) == way] for column in of_run]
            nfe = next((e["nfe"] for column in chosen for e in column if "nfe" in e), None)
            note = ", ".join([f"{k}={v}" for k, v in way.items()] + ([f"NFE {nfe}"] if nfe is not None else []))
            blank = [way != ways[0] and not any("sampling" in e for e in column) for column in of_run]
            cells = [Cell("") if b else cell(es, summary["steps"]) for b, es in zip(blank, chosen, strict=True)]
            rows.append(Row(label, note, tuple(cells)))
    columns = _columns(list(found))
    rows = _mark_best(columns, rows) + _floor_rows(columns, list(labelled.values()))
    return Table(columns, tuple(rows))


def _ways(of_run: Sequence[Entry]) -> list[dict[str, Any]]:
    """The sampling options that a run was judged with, the default ones first; one empty way if it was not sampled."""
    ways = [entry["sampling"] for entry in of_run if "sampling" in entry]
    unique = [way for i, way in enumerate(ways) if way not in ways[:i]]
    return sorted(unique, key=bool) or [{}]


def _columns(keys: Sequence[tuple[str, str]]) -> tuple[Column, ...]:
    columns = [Column(name, json.loads(conditions)) for name, conditions in keys]
    heads = [(column.name, column.conditions) for column in columns]
    return tuple(c._replace(distinction=_digests(c)) if heads.count(h) > 1 else c for c, h in zip(columns, heads, strict=True))


def _digests(column: Column) -> str:
    """Extractor and reference, by name and short digest."""
    parts = [v for v in column.protocol.values() if isinstance(v, Mapping) and "name" in v]
    return ", ".join(f"{part['name']} {str(part.get('digest', ''))[:8]}".strip() for part in parts)


def cell(column: Sequence[Entry], steps: int) -> Cell:
    """The entries of the last checkpoint judged, as one cell."""
    if not column:
        return Cell(ABSENT)
    last = max(entry.get("step") or 0 for entry in column)
    column = [entry for entry in column if (entry.get("step") or 0) == last]
    note = [f"at step {last}"] if last and last != steps else []
    if len(column) > 1:
        note.append("seeds " + ", ".join(str(entry.get("seed")) for entry in column))
    values = [float(entry["value"]) for entry in column if entry["value"] is not None]
    return Cell("; ".join(map(number, column)), ", ".join(note), sum(values) / len(values) if values else None)


def number(entry: Entry) -> str:
    """Value ± error, the error to two digits and the value to the same place; "s.d." marks a standard deviation.

    Where there is no value, the note that says why.
    """
    if entry["value"] is None:
        return entry["note"]
    value, error = float(entry["value"]), entry.get("stderr", entry.get("std"))
    unit_of_entry = f" {entry['unit']}" if "unit" in entry else f" of {entry['of']}" if "of" in entry else ""
    error = float(error) if error is not None else 0.0
    if not (math.isfinite(error) and error > 1e-9 * abs(value) and math.isfinite(value)):  # less is rounding
        return f"{value:.4g}{unit_of_entry}"
    places = max(0, 1 - math.floor(math.log10(error)))
    return f"{value:.{places}f} ± {error:.{places}f}{'' if 'stderr' in entry else ' s.d.'}{unit_of_entry}"


def _mark_best(columns: Sequence[Column], rows: Sequence[Row]) -> list[Row]:
    """Marks the best of each column that has two values or more and a better end."""
    best = {}
    for j, column in enumerate(columns):
        values = [row.cells[j].value for row in rows if row.cells[j].value is not None and math.isfinite(row.cells[j].value)]
        choose = {"lower": min, "higher": max}.get(meaning(column.name).better)
        if choose and len(values) > 1:
            best[j] = choose(values)
    return [
        row._replace(
            cells=tuple(c._replace(best=c.value is not None and c.value == best.get(j)) for j, c in enumerate(row.cells))
        )
        for row in rows
    ]


def floors(column: Column, summaries: Sequence[Summary]) -> list[Entry]:
    """What real images get in a column: entries of the same extractor and reference."""
    found = [entry for s in summaries for entry in s["metrics"].get(column.name + FLOOR, [])]
    same = [e for e in found if all(e.get(k) == column.protocol.get(k) for k in ("extractor", "reference"))]
    return [e for i, e in enumerate(same) if (e["value"], e["n"]) not in [(o["value"], o["n"]) for o in same[:i]]]


def _floor_rows(columns: Sequence[Column], summaries: Sequence[Summary]) -> list[Row]:
    of_columns = [floors(column, summaries) for column in columns]
    if not any(of_columns):
        return []
    what = next((e["real"] for of_column in of_columns for e in of_column if "real" in e), "")
    cells = []
    for column, of_column in zip(columns, of_columns, strict=True):
        notes = {f"n={e['n']}" for e in of_column if e["n"] != column.protocol.get("n")}
        cells.append(Cell("; ".join(map(number, of_column)), ", ".join(sorted(notes))))
    return [Row("real images", what, tuple(cells), floor=True)]


def costs(labelled: Mapping[str, Summary]) -> tuple[list[str], list[list[str]]]:
    """What each run cost: headings and rows. A "-" is unknown."""
    extra = [name for name in COSTS if any(name in s["metrics"] for s in labelled.values())]
    heads = ["run", "parameters", "steps", "batch", "images seen", "epochs", "minutes", "images/s", "hardware", "NFE"]
    rows = []
    for label, s in labelled.items():
        speed = _rounded(s["images_per_second"]) if s["images_per_second"] else "-"
        row = [label, f"{s['parameters']:,}", f"{s['steps']:,}", str(s["config"]["train"]["batch_size"]), f"{s['images']:,}"]
        row += [_rounded(s["epochs"]), _rounded(s["seconds"] / 60), speed, s["hardware"], ", ".join(map(str, s["nfe"])) or "-"]
        rows.append(
            row + ["; ".join(_with_way(e, COSTS[name][1]) for e in s["metrics"].get(name, [])) or "-" for name in extra]
        )
    return [*heads, *(COSTS[name][0] for name in extra)], rows


def _rounded(value: float) -> str:
    """Three digits, never as a power of ten."""
    return f"{float(f'{value:.3g}'):,.12g}"


def _with_way(entry: Entry, unit: float) -> str:
    options = [f"{key}={value}" for key, value in entry.get("sampling", {}).items()]
    where = [*options, *([f"NFE {entry['nfe']}"] if "nfe" in entry else []), *([entry["device"]] if "device" in entry else [])]
    return _rounded(entry["value"] / unit) + (f" ({', '.join(where)})" if where else "")


def markdown(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    escaped = [[cell.replace("|", "\\|") for cell in row] for row in [heads, ["---"] * len(heads), *rows]]
    return "".join(f"| {' | '.join(row)} |\n" for row in escaped)


def markdown_of(table: Table, costs_of: Mapping[str, Sequence[str]] | None = None, cost_heads: Sequence[str] = ()) -> str:
    """A `Table` in Markdown. `costs_of` maps a run's label to cells that come before its metrics, under `cost_heads`."""
    heads = ["run", *cost_heads]
    for column in table.columns:
        conditions = f" ({column.conditions})" if column.conditions else ""
        by_name = meaning(column.name).group not in (LIKELIHOOD, RECONSTRUCTION)  # where the name tells the protocol
        heads.append((f"`{column.name}`" if by_name else column.words) + conditions)
    rows = []
    for row in table.rows:
        label = row.label + (f" ({row.note})" if row.note else "")
        cells = [(f"**{c.text}**" if c.best else c.text or "-") + (f" ({c.note})" if c.note else "") for c in row.cells]
        rows.append([label, *((costs_of or {}).get(row.label, ["-"] * len(cost_heads))), *cells])
    return markdown(heads, rows)
