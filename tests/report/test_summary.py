"""Summaries of runs and the README's table of them."""

import json
from pathlib import Path

import pytest

from gm_jax.errors import InputError
from gm_jax.report import summary

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workdir(make_run):
    entry = {"value": 4.15, "stderr": 0.02, "kind": "bound", "n": 256, "weights": "ema", "split": "test"}
    return make_run("vae", metrics={"elbo_bits_per_dim": [entry]})


def test_summary_adds_up_the_time_between_log_entries(workdir):
    s = summary.summarize(workdir)
    assert (s["steps"], s["images"], s["epochs"], s["parameters"]) == (200, 10_000, 10.0, 4532)
    assert "/private" not in json.dumps(s)
    assert s["seconds"] == pytest.approx(15.0)
    assert s["images_per_second"] == pytest.approx(10_000 / 15)
    assert s["metrics"]["elbo_bits_per_dim"][0]["value"] == 4.15


def test_a_log_that_is_missing_or_being_written_is_read_as_far_as_it_goes(workdir):
    log = workdir / "metrics.jsonl"
    log.write_text(log.read_text() + '{"step": 300, "vae/lo')
    assert summary.summarize(workdir)["steps"] == 200
    log.write_text('{"step": 1, "vae/lo\n{"step": 2}\n')
    with pytest.raises(InputError, match="damaged"):
        summary.summarize(workdir)
    log.unlink()
    assert summary.summarize(workdir)["steps"] == 0


def test_table_goes_between_the_markers_and_shows_the_numbers(workdir, tmp_path, capsys):
    out, readme = tmp_path / "out" / "run.json", tmp_path / "README.md"
    assert summary.main([str(workdir), "--out", str(out)]) == 0
    readme.write_text(f"before\n{summary.BEGIN}\nold\n{summary.END}\nafter\n")
    assert summary.main(["--table", str(out), "--readme", str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "On digits:" in text and "| ELBO, bits/dim (bound, test, n=256, ema) |" in text
    assert "| vae | 4,532 | 200 steps, 10 epochs, 0.25 min | 1 x cpu (2 cores) | 4.150 ± 0.020 |" in text


def test_no_markers_and_no_run_are_one_line(workdir, tmp_path, capsys):
    with pytest.raises(InputError, match="add them"):
        summary.insert("no markers", "table")
    assert summary.main([str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_table_of_the_readme_is_the_generated_one():
    files = sorted((ROOT / "results").glob("*.json"))
    readme = (ROOT / "README.md").read_text()
    assert files and summary.insert(readme, summary.table([json.loads(file.read_text()) for file in files])) == readme
