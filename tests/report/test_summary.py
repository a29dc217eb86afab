"""Summaries of runs and the README's table of them."""

import json
from pathlib import Path

import pytest

from gm_jax.errors import InputError
from gm_jax.report import summary
from gm_jax.training import workdirs

ROOT = Path(__file__).parents[2]


@pytest.fixture
def workdir(tmp_path):
    config = {"model": {"name": "vae"}, "data": {"name": "digits", "dir": "/private"}, "train": {"batch_size": 50}}
    record = workdirs.Record(config, (8, 8, 1), 10, 1000, 4532, {}, "1 x cpu (2 cores)", {"jax": "0.10.2"})
    workdirs.write(tmp_path, record)
    lines = [
        {"step": 100, "vae/loss": 9.0, "steps_per_second": 10.0},  # 10 s
        {"step": 100, "heldout/vae/loss": 8.0},
        {"step": 200, "vae/loss": 7.0, "steps_per_second": 20.0},  # 5 s
    ]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    entry = {"value": 4.15, "stderr": 0.02, "kind": "bound", "n": 256, "weights": "ema", "split": "test"}
    (tmp_path / "results.json").write_text(json.dumps({"metrics": {"elbo_bits_per_dim": [entry]}, "pictures": {}}))
    return tmp_path


def test_summary_adds_up_the_time_between_log_entries(workdir):
    s = summary.summarize(workdir)
    assert (s["steps"], s["images"], s["epochs"], s["parameters"]) == (200, 10_000, 10.0, 4532)
    assert "/private" not in json.dumps(s)
    assert s["seconds"] == pytest.approx(15.0)
    assert s["images_per_second"] == pytest.approx(10_000 / 15)
    assert s["metrics"]["elbo_bits_per_dim"][0]["value"] == 4.15


def test_table_goes_between_the_markers_and_shows_the_numbers(workdir, tmp_path, capsys):
    out, readme = tmp_path / "out" / "run.json", tmp_path / "README.md"
    assert summary.main([str(workdir), "--out", str(out)]) == 0
    readme.write_text(f"before\n{summary.BEGIN}\nold\n{summary.END}\nafter\n")
    assert summary.main(["--table", str(out), "--readme", str(readme)]) == 0
    text = readme.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "old" not in text
    assert "| vae on digits | 4,532 | 200 steps, 10 epochs, 0.25 min | 1 x cpu (2 cores) |" in text
    assert "4.15 ± 0.02 (bound, test n=256, ema)" in text


def test_no_markers_and_no_run_are_one_line(workdir, tmp_path, capsys):
    with pytest.raises(InputError, match="add them"):
        summary.insert("no markers", "table")
    assert summary.main([str(tmp_path / "nothing")]) == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_the_table_of_the_readme_is_the_generated_one():
    files = sorted((ROOT / "results").glob("*.json"))
    readme = (ROOT / "README.md").read_text()
    assert files and summary.insert(readme, summary.table([json.loads(file.read_text()) for file in files])) == readme
