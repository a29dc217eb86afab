"""What the pages say of models, fields and measurements: generated from docstrings, `gm_jax.defaults` and the files of results.

Between marker lines README.md has the list of models and a short table for each of SHOWN, results/README.md all measurements,
docs/training.md the fields that all experiments share.
"""

import ast
import importlib.util
import json
import math
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from gm_jax import build
from gm_jax.defaults import FIELDS
from gm_jax.errors import InputError
from gm_jax.report import tables
from gm_jax.report.names import LIKELIHOOD, is_distance, meaning, unit
from gm_jax.settings import Field, describe, fields_of, section_of

Summary = dict[str, Any]
Entry = dict[str, Any]

SHOWN = ("digits", "digits_noise", "digits_games", "cifar10")  # folders of results with a table in README.md
HEADS = ("model", "distance", "bits/dim", "NFE", "s / 1000 images")
SECONDS = "cost_seconds_per_1000_samples"
KINDS = {"exact": "exact", "bound": "upper bounds", "estimate": "estimates"}  # of likelihoods that give bits/dim
GIVEN_LABEL = "_given_label_"  # in the name of what is said of p(x|y), which is no likelihood of the image


# --- files --------------------------------------------------------------------------------------------------------------------


def generate(results: Path, readme: Path) -> dict[Path, str]:
    """The pages with all generated parts made anew: path -> text. Raises InputError for missing markers and damaged files."""
    runs, long, training = read(results), results / "README.md", readme.parent / "docs/training.md"
    text = insert(readme.read_text(), models(readme.parent), "models")
    for folder in SHOWN:
        text = insert(text, short_table(runs, folder, readme.parent), f"table of {folder}")
    return {
        readme: text,
        long: insert(long.read_text(), long_tables(runs)),
        training: insert(training.read_text(), fields(), "fields"),
    }


def read(results: Path) -> dict[Path, Summary]:
    """The summaries of results/FOLDER/NAME.json. Raises InputError for a file that is damaged, and where there is none."""
    found = {}
    for path in sorted(results.glob("*/*.json")):
        try:
            summary = json.loads(path.read_text())
            found[path] = summary | {"config": summary["config"] | {"model": todays_fields(summary["config"]["model"])}}
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"{path} is no summary of a run ({error!r}); write it anew, or remove it") from error
    if not found:
        raise InputError(f"{results} holds no summaries; write some with --out {results}/FOLDER/NAME.json")
    return found


def todays_fields(model: Mapping[str, Any]) -> dict[str, Any]:
    """The section `model` of a config in the fields of today, so that runs of all times can be told apart by theirs.

    Once a network's fields stood beside the model's. What is no field any more is left out, what has come up since has its
    default. A model that cannot be had here stays as it is.
    """
    try:
        fields = fields_of(build.find_make(model["name"]))
        found = {key: value for key, value in model.items() if key in fields or key == "name"}
        for name, kind in {name: section_of(field.hint) for name, field in fields.items()}.items():
            if kind is None:
                continue
            given = model.get(name, {})
            section = build.over({"name": given} if isinstance(given, str) else given, fields[name].default)
            known = fields_of(build.SECTIONS[kind](section.get("name", "")))
            found[name] = section | {key: model[key] for key in known if key in model and key not in fields}
        return build.resolve_section(found, "model")
    except InputError:
        return dict(model)


def markers(name: str) -> tuple[str, str]:
    """The lines that a generated part stands between."""
    return f"<!-- {name} -->", f"<!-- /{name} -->"


def insert(text: str, part: str, name: str = "results") -> str:
    """`text` with `part` between the markers of that name. Raises InputError where they are missing."""
    first, last = markers(name)
    head, begin, rest = text.partition(first)
    _, end, tail = rest.partition(last)
    if not (begin and end):
        raise InputError(f"no lines {first} and {last} to put a generated part between; add them")
    return f"{head}{first}\n{part}{last}{tail}"


# --- measurements -------------------------------------------------------------------------------------------------------------


def long_tables(runs: Mapping[Path, Summary]) -> str:
    """Markdown: for each folder, of one data set, a table, a row a run: what it is, what it cost, what its main metrics are."""
    parts = []
    for folder in dict.fromkeys(path.parent.name for path in runs):
        summaries = [s for path, s in runs.items() if path.parent.name == folder]
        data, labelled = _data(folder, summaries), tables.labelled(summaries)
        cost = {label: _cost(s) for label, s in labelled.items()}
        markdown = tables.markdown_of(tables.build(labelled, main=True), cost, ["parameters", "trained for", "hardware"])
        parts.append(f"On {data}:\n\n{markdown}")
    return "\n".join(parts)


def _cost(s: Summary) -> list[str]:
    trained = f"{s['steps']} steps, {s['epochs']:.3g} epochs, {s['seconds'] / 60:.3g} min"
    return [f"{s['parameters']:,}", trained, s["hardware"]]


class Way(NamedTuple):
    """A run, sampled in one way, under the protocol of the table."""

    run: int  # its index
    sampling: dict[str, Any]
    distance: tables.Cell
    nfe: int | None


def _data(folder: str, summaries: Sequence[Summary]) -> str:
    """What the runs of a folder are of, in words."""
    data = tables.data_set(summaries[0]) if summaries else folder
    return data if data.split()[0] == folder else f"{data} ({folder})"


def short_table(runs: Mapping[Path, Summary], folder: str, base: Path) -> str:
    """Markdown: what the protocol is, then a row a model, the way of its runs that has the lowest distance; real images last.

    Of the protocols for distances that which most runs share is shown, and no other; models without it are named. The same goes
    for bits/dim, where the lowest of a run counts. A conditional model has a row of its own. Links start at `base`.
    """
    of_folder = {path: s for path, s in runs.items() if path.parent.name == folder}
    paths, summaries = list(of_folder), list(of_folder.values())
    data = _data(folder, summaries)
    distances = {key: of_runs for key, of_runs in tables.entries(summaries).items() if is_distance(key[0])}
    if not distances:
        return f"No distances on {data} yet.\n"
    (name, conditions), of_runs = max(distances.items(), key=lambda item: sum(map(bool, item[1])))
    column = tables.Column(name, json.loads(conditions))
    rows = sorted(_best(summaries, of_runs), key=lambda way: way.distance.value)
    bits = _bits_per_dim(summaries)
    seconds = {way.run: _seconds(summaries[way.run], way.sampling) for way in rows}
    hardware = sorted({entry["hardware"] for entry in seconds.values() if entry})
    labels, cells = tables.labels(summaries), []
    for way in rows:
        entry, (_, bits_cell) = seconds[way.run], bits.get(way.run, ("", tables.Cell("-")))
        time = tables.number(entry) if entry else "-"
        cells.append(
            [
                _named(labels[way.run], paths[way.run], base, way.sampling),
                _text(way.distance),
                _text(bits_cell),
                "-" if way.nfe is None else str(way.nfe),
                f"{time} ({entry['hardware']})" if entry and len(hardware) > 1 else time,
            ]
        )
    for floor in tables.floors(column, summaries):
        n = f" (n={floor['n']})" if floor["n"] != column.protocol.get("n") else ""
        cells.append([f"real images ({floor['real']})", tables.number(floor) + n, "-", "-", "-"])
    shown = [(summaries[way.run], bits.get(way.run, ("", None))[0]) for way in rows]
    caption = [_of_distance(column), _of_bits(shown, bits), f"Seconds: {hardware[0]}." if len(hardware) == 1 else ""]
    missing = sorted({_model(s) for s in summaries} - {_model(s) for s, _ in shown})
    caption.append(f"Not measured in this way: {', '.join(missing)}." if missing else "")
    return f"On {data}. {' '.join(filter(None, caption))}\n\n{tables.markdown(HEADS, cells)}"


def _best(summaries: Sequence[Summary], of_runs: Sequence[Sequence[Entry]]) -> list[Way]:
    """For each model, and apart from it for its conditional runs, the way of lowest distance."""
    best: dict[tuple[str, bool], Way] = {}
    for i, (summary, entries) in enumerate(zip(summaries, of_runs, strict=True)):
        model = summary["config"]["model"]
        key = model["name"], bool(model.get("class_conditional"))
        for sampling in _unique([entry.get("sampling", {}) for entry in entries]):
            same = [entry for entry in entries if entry.get("sampling", {}) == sampling]
            way = Way(i, sampling, tables.cell(same, summary["steps"]), same[-1].get("nfe"))
            value = way.distance.value
            if value is not None and math.isfinite(value) and (key not in best or value < best[key].distance.value):
                best[key] = way
    return list(best.values())


def _bits_per_dim(summaries: Sequence[Summary]) -> dict[int, tuple[str, tables.Cell]]:
    """Run -> the metric that gives it the fewest bits/dim, and its cell, under the protocol that most runs share."""
    by_protocol: dict[str, dict[int, list[tuple[str, tables.Cell]]]] = {}
    for (name, conditions), of_runs in tables.entries(summaries).items():
        protocol = json.loads(conditions)
        likelihood = meaning(name).group == LIKELIHOOD and unit(name) == "bits/dim" and GIVEN_LABEL not in name
        if not likelihood or protocol.pop("kind", None) not in KINDS:
            continue
        members = by_protocol.setdefault(json.dumps(protocol, sort_keys=True), {})
        for i, entries in enumerate(of_runs):
            cell = tables.cell(entries, summaries[i]["steps"])
            if cell.value is not None and math.isfinite(cell.value):
                members.setdefault(i, []).append((name, cell))
    shared = max(by_protocol.values(), key=len, default={})
    return {i: min(found, key=lambda pair: pair[1].value) for i, found in shared.items()}


def _seconds(summary: Summary, sampling: Mapping[str, Any]) -> Entry | None:
    return next((e for e in summary["metrics"].get(SECONDS, []) if e.get("sampling", {}) == sampling), None)


def _of_distance(column: tables.Column) -> str:
    protocol = column.protocol
    reference = protocol.get("reference", {})
    against = f", against the {reference['n']} images of {reference['name']}" if reference.get("n") else ""
    return f"Distance: `{column.name}` of {protocol.get('n')} samples, {protocol.get('weights')} weights{against}."


def _of_bits(shown: Sequence[tuple[Summary, str]], bits: Mapping[int, Any]) -> str:
    """Which likelihoods the column holds: "upper bounds: IWAE (vae), ELBO (vqvae)"."""
    models: dict[str, dict[str, list[str]]] = {}
    origin: Entry = {}
    for summary, metric in shown:
        if metric:
            origin = summary["metrics"][metric][-1]
            models.setdefault(KINDS[origin["kind"]], {}).setdefault(meaning(metric).words, []).append(_model(summary))
    if not bits or not origin:
        return ""
    kinds = [
        f"{kind}: " + ", ".join(f"{words} ({', '.join(sorted(set(names)))})" for words, names in sorted(of_kind.items()))
        for kind, of_kind in sorted(models.items())
    ]
    return f"Bits/dim of {origin['n']} {origin['split']} images, {origin['weights']} weights; {'; '.join(kinds)}."


def _model(summary: Summary) -> str:
    return summary["config"]["model"]["name"]


def _named(label: str, path: Path, base: Path, sampling: Mapping[str, Any]) -> str:
    """The run, with a link to its file, and how it was sampled."""
    model, comma, others = label.partition(", ")
    way = ", ".join(f"{key}={value}" for key, value in sampling.items())
    return f"[{model}]({_relative(path, base)}){comma}{others}" + (f" ({way})" if way else "")


def _text(cell: tables.Cell) -> str:
    return cell.text + (f" ({cell.note})" if cell.note else "")


def _relative(path: Path, base: Path) -> str:
    return Path(os.path.relpath(path, base)).as_posix()


def _unique(values: Sequence[Any]) -> list[Any]:
    return [value for i, value in enumerate(values) if value not in values[:i]]


# --- models -------------------------------------------------------------------------------------------------------------------

NAME = r"(?:(?:van |von |den |der |de |di |la |le )*[A-Z][\w'’-]+)"
PAPER = re.compile(rf"({NAME}(?:, {NAME})*(?: (?:&|and) {NAME}| et al\.)? (?:19|20)\d\d)(?:, (https?://[^\s);,]+))?")


def models(base: Path) -> str:
    """Markdown: each of MODELS with the first line of its docstring, and the papers that the docstring cites."""
    rows = []
    for name, module in build.MODELS.items():
        path = Path(importlib.util.find_spec(module).origin)
        what, papers = described(ast.get_docstring(ast.parse(path.read_text())) or "")
        rows.append([f"[`{name}`]({_relative(path, base)})", what, "; ".join(papers)])
    return tables.markdown(["model", "what it is", "papers"], rows)


def described(docstring: str) -> tuple[str, list[str]]:
    """What a docstring begins with, without what stands in brackets at its end, and the papers it cites as "Authors YEAR".

    An address right behind a citation, "Ho et al. 2020, https://...", becomes its link.
    """
    first = " ".join(docstring.partition("\n\n")[0].split()).removesuffix(".")
    cited: dict[str, str] = {}
    for authors, address in PAPER.findall(" ".join(docstring.split())):
        cited[authors] = cited.get(authors) or address
    papers = [f"[{authors}]({address})" if address else authors for authors, address in cited.items()]
    return re.sub(r" \([^()]*\)$", "", first), papers


# --- fields -------------------------------------------------------------------------------------------------------------------


def fields() -> str:
    """Markdown: the fields that all experiments share, what they take and what they mean."""
    return tables.markdown(["field", "default", "takes", "meaning"], list(_field_rows(FIELDS)))


def _field_rows(fields: Mapping[str, Any], prefix: str = "") -> Iterator[list[str]]:
    for name, field in fields.items():
        if isinstance(field, Field):
            default = f"`{field.default}`" if field.default not in ("", (), {}) else ""
            yield [f"`{prefix}{name}`", default, describe(field.hint), field.help]
        else:
            yield from _field_rows(field, f"{prefix}{name}.")
