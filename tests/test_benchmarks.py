"""The benchmarks' table and how it is made; the benchmarks themselves are run by `make bench`."""

import json
from pathlib import Path

import pytest

from benchmarks import __main__ as program
from benchmarks import measure
from gm_jax.report.summary import BEGIN, END, insert

FOLDER = Path(program.__file__).parent
SCRIPTS = sorted(file.name for file in FOLDER.glob("*.py") if file.stem != "__main__")
WHERE = {"device": "cpu", "hardware": "Abacus, 2 cores", "versions": {"python": "3.11.7", "jax": "0.10.2"}}


def entry(path, script="vae", date="2026-01-31", machine=WHERE, **fields):
    row = measure.Row(path, "step", 0.5, 2.0, "PyTorch")._replace(**fields)
    return {**row._asdict(), "script": script, "date": date, "machine": machine}


# --- measuring ----------------------------------------------------------------------------------------------------------------


def test_compare_takes_medians_of_interleaved_times_and_the_best_other(monkeypatch):
    durations, order, now = {"gm_jax": [3, 1, 8], "slow": [9, 9, 9], "fast": [2, 7, 2]}, [], [0.0]

    def variant(name):
        left = iter(durations[name])

        def run():
            order.append(name)
            now[0] += next(left)

        return run

    monkeypatch.setattr(measure.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(measure, "PAUSE", 0)
    monkeypatch.setattr(measure.gc, "collect", lambda: 0)
    row = measure.compare("p", "step", {name: variant(name) for name in durations}, rounds=3, per=2, note="n")
    assert row == measure.Row("p", "step", 1.5, 1.0, "fast", "n") and row.ratio == 1.5
    assert order == [*durations] * 3


def test_the_command_line_prints_and_writes_the_rows(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["x", f"--json={tmp_path / 'rows.json'}", "--rounds=2", "--n=5"])
    measure.main(lambda options: [measure.Row(f"n={options.n}", "step", 1.0, options.rounds, "other")], "doc", n=1)
    assert "n=5: 0.5 x other" in capsys.readouterr().out
    [row] = json.loads((tmp_path / "rows.json").read_text())
    assert measure.Row(**row) == measure.Row("n=5", "step", 1.0, 2, "other")


# --- keeping and rendering ----------------------------------------------------------------------------------------------------


def test_new_rows_take_the_place_of_those_of_their_script_and_path():
    old = [entry("a"), entry("renamed since"), entry("b", "ddpm"), entry("moved", "fid")]
    new = [entry("a", ours=1.0), entry("moved")]
    merged = program.merge(old, new)
    assert merged == [entry("b", "ddpm"), entry("a", ours=1.0), entry("moved")]
    assert program.merge(merged, []) == merged and program.merge([], new) == new


def test_the_table_shows_each_row_and_where_it_was_measured():
    later = WHERE | {"versions": {"python": "3.12.1"}}
    rows = [entry("a"), entry("b", note="a remark", ours=0.001), entry("c", theirs=1e-3, machine=later)]
    text = program.render({"cpu": rows[:2], "other": rows[2:]})
    assert text.startswith("On Abacus, 2 cores (python 3.11.7, jax 0.10.2):\n\n| path | gm_jax | best other | ratio | date |\n")
    assert "| a | 500 ms per step | 2 s, PyTorch | 0.25 | 2026-01-31 |\n" in text
    assert "| b (a remark) | 1 ms per step | 2 s, PyTorch | 0.0005 | 2026-01-31 |\n" in text
    assert "\n\nOn Abacus, 2 cores (python 3.12.1):\n" in text and "| 1 ms, PyTorch | 500.00 |" in text
    assert "(python 3.11.7, jax 0.10.2); or Abacus" in program.table(rows)


@pytest.mark.parametrize(
    ("seconds", "text"), [(1234.5, "1234 s"), (12.345, "12.3 s"), (0.12345, "123 ms"), (1.2e-4, "120 µs"), (0.0, "0 µs")]
)
def test_durations(seconds, text):
    assert program.duration(seconds) == text


def test_file_names_of_devices():
    assert program.slug("NVIDIA H200") == "nvidia-h200" and program.slug("cpu") == "cpu"


# --- running ------------------------------------------------------------------------------------------------------------------

GOOD = """
import json, pathlib, sys
def rows(options): ...
row = {"path": "p", "unit": "step", "ours": 1.0, "theirs": 2.0, "against": "other", "note": ""}
pathlib.Path(sys.argv[1].removeprefix("--json=")).write_text(json.dumps([row]))
"""
BAD = "import sys\ndef rows(options): ...\nsys.exit('PyTorch is missing')\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    folder = tmp_path / "benchmarks"
    folder.mkdir()
    for name, source in {"bad": BAD, "good": GOOD, "helper": "x = 1\n"}.items():
        (folder / f"{name}.py").write_text(source)
    (folder / "README.md").write_text(f"before\n{BEGIN}\n{END}\nafter\n")
    monkeypatch.setattr(program, "FOLDER", folder)
    monkeypatch.setattr(program, "machine", lambda: WHERE)
    return folder


def test_a_failure_is_named_and_loses_no_other_benchmark(folder, capfd):
    assert program.names() == ["bad", "good"]
    assert program.main([]) == 1
    assert capfd.readouterr().err == "PyTorch is missing\nfailed: bad\n"
    assert [row["path"] for row in program.load()["cpu"]] == ["p"]
    assert "| p | 1 s per step | 2 s, other | 0.50 |" in (folder / "README.md").read_text()


def test_those_that_are_named_run(folder, capfd):
    assert program.main(["good"]) == 0
    assert capfd.readouterr().err == ""
    with pytest.raises(SystemExit, match="2"):
        program.main(["god"])
    assert "no benchmark god; known: bad, good" in capfd.readouterr().err


def test_the_machine_is_described_without_pytorch():
    found = program.machine()
    assert found["device"] and found["hardware"] and {"python", "jax", "jaxlib", "flax"} <= found["versions"].keys()


# --- the README ---------------------------------------------------------------------------------------------------------------


def test_the_tables_of_the_readme_are_the_generated_ones():
    readme = (FOLDER / "README.md").read_text()
    assert insert(readme, program.render(program.load())) == readme


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_readme_names_every_script(name):
    assert f"`{name}`" in (FOLDER / "README.md").read_text()


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_short_and_say_how_they_are_run(name):
    source = (FOLDER / name).read_text()
    assert len(source.splitlines()) <= 400
    if "\ndef rows(" in source:
        assert f"python -m benchmarks.{name.removesuffix('.py')}" in source and "main(rows, __doc__" in source
