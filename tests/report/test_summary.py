"""Summaries of runs, and what the pages say of them and of the models."""

import ast
import json
from pathlib import Path

import pytest

from gm_jax import build
from gm_jax.errors import InputError
from gm_jax.report import catalogue, summary
from gm_jax.settings import fields_of

ROOT = Path(__file__).parents[2]
DISTANCE, SECONDS = "frechet_digits_classifier_1k_train", catalogue.SECONDS
BOUND = {"kind": "bound", "n": 256, "weights": "ema", "split": "test", "seed": 0, "step": 200}


@pytest.fixture
def workdir(make_run):
    return make_run("vae", metrics={"elbo_bits_per_dim": [{"value": 4.15, "stderr": 0.02} | BOUND]})


@pytest.fixture
def put(tmp_path):
    """put(name, model, data, metrics, **fields of config["model"]) writes the summary results/DATA/NAME.json."""

    def put(name, model="vae", data="digits", metrics=None, **hyperparameters):
        config = {
            "model": {"name": model, **hyperparameters},
            "data": {"name": data},
            "train": {"steps": 200, "batch_size": 50},
        }
        cost = {"steps": 200, "epochs": 10.0, "seconds": 15.0, "parameters": 4532, "hardware": "1 x cpu (2 cores)"}
        path = tmp_path / "results" / data / f"{name}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"config": config, "metrics": metrics or {}} | cost))

    return put


def short(tmp_path, data="digits"):
    """(caption, cells of the rows) of the short table."""
    lines = catalogue.short_table(catalogue.read(tmp_path / "results"), data, tmp_path).splitlines()
    assert lines[2] == "| model | distance | bits/dim | NFE | s / 1000 images |"
    return lines[0], [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[4:]]


# --- a run --------------------------------------------------------------------------------------------------------------------


def test_summary_adds_up_the_time_between_log_entries(workdir):
    s = summary.summarize(workdir)
    assert (s["steps"], s["images"], s["epochs"], s["parameters"]) == (200, 10_000, 10.0, 4532)
    assert "/private" not in json.dumps(s)
    assert s["seconds"] == pytest.approx(15.0)
    assert s["images_per_second"] == pytest.approx(10_000 / 15)
    assert s["metrics"]["elbo_bits_per_dim"][0]["value"] == 4.15
    out = workdir / "out/run.json"
    assert summary.main([str(workdir), "--out", str(out)]) == 0 and json.loads(out.read_text()) == s


def test_a_log_that_is_missing_or_being_written_is_read_as_far_as_it_goes(workdir):
    log = workdir / "metrics.jsonl"
    log.write_text(log.read_text() + '{"step": 300, "vae/lo')
    assert summary.summarize(workdir)["steps"] == 200
    log.write_text('{"step": 1, "vae/lo\n{"step": 2}\n')
    with pytest.raises(InputError, match="damaged"):
        summary.summarize(workdir)
    log.unlink()
    assert summary.summarize(workdir)["steps"] == 0


def test_a_folder_has_a_table_of_its_own(put, tmp_path, entry):
    put("vae", metrics={DISTANCE: [entry(4.0)]})
    put("edm", model="edm", metrics={DISTANCE: [entry(3.0)]})
    (tmp_path / "results/digits_noise").mkdir()
    (tmp_path / "results/digits/edm.json").rename(tmp_path / "results/digits_noise/edm.json")
    (first, [vae, *_]), (second, [edm, *_]) = (short(tmp_path, folder) for folder in ("digits", "digits_noise"))
    assert first.startswith("On digits. ") and "vae" in vae[0] and vae[1] == "4"
    assert second.startswith("On digits (digits_noise). ") and "edm" in edm[0] and edm[1] == "3"
    long = catalogue.long_tables(catalogue.read(tmp_path / "results"))
    assert long.count("On digits:") == long.count("On digits (digits_noise):") == 1


# --- the command --------------------------------------------------------------------------------------------------------------


def test_the_generated_parts_of_the_pages_are_what_the_command_writes():
    for path, text in catalogue.generate(ROOT / "results", ROOT / "README.md").items():
        assert path.read_text() == text, "python -m gm_jax.report.summary --tables results README.md"


def test_generated_parts_go_between_their_markers(put, tmp_path, entry):
    names = ["models", *(f"table of {data}" for data in catalogue.SHOWN)]
    readme, page, training = (tmp_path / name for name in ("README.md", "results/README.md", "docs/training.md"))
    readme.write_text("before\n" + "".join(f"<!-- {name} -->\nold\n<!-- /{name} -->\n" for name in names) + "after\n")
    put("vae", metrics={DISTANCE: [entry(4.0)], "elbo_bits_per_dim": [{"value": 4.15, "stderr": 0.02} | BOUND]})
    page.write_text(f"{summary.BEGIN}\nold\n{summary.END}\n")
    training.parent.mkdir()
    training.write_text("<!-- fields -->\nold\n<!-- /fields -->\n")
    assert summary.main(["--tables", str(tmp_path / "results"), str(readme)]) == 0
    text, long, of_fields = readme.read_text(), page.read_text(), training.read_text()
    assert text.startswith("before\n") and text.endswith("after\n") and "\nold\n" not in text + long + of_fields
    assert "| `optimizer.b1` | `0.9` | a number in [0, 1) | of sgd: the momentum |" in of_fields
    assert "No distances on cifar10 yet." in text and "On digits:" in long and "| [`vae`](" in text
    assert "| ELBO, bits/dim (bound, test, n=256, ema) |" in long
    assert "| vae (NFE 1) | 4,532 | 200 steps, 10 epochs, 0.25 min | 1 x cpu (2 cores) | 4 | 4.150 ± 0.020 |" in long


def test_what_is_missing_or_damaged_is_one_line(workdir, tmp_path, capsys):
    with pytest.raises(InputError, match="add them"):
        catalogue.insert("no markers", "text")
    assert summary.main([str(tmp_path / "nothing")]) == 2
    assert summary.main(["--tables", str(tmp_path), str(tmp_path / "README.md")]) == 2
    (tmp_path / "digits").mkdir()
    (tmp_path / "digits/a.json").write_text('{"config": 3}')
    assert summary.main(["--tables", str(tmp_path), str(tmp_path / "README.md")]) == 2
    errors = capsys.readouterr().err.splitlines()
    assert len(errors) == 3 and "holds no summaries" in errors[1] and "a.json is no summary" in errors[2]


@pytest.mark.parametrize("argv", [[], ["runs/a", "--tables", "results", "README.md"]])
def test_one_of_two_things_is_asked_for(argv, capsys):
    with pytest.raises(SystemExit):
        summary.main(argv)
    assert "or --tables RESULTS README" in capsys.readouterr().err


# --- the short table ----------------------------------------------------------------------------------------------------------


def test_a_row_a_model_in_the_way_of_its_lowest_distance(put, tmp_path, entry, floor):
    fast = {"sampling": {"sampler": "ddim"}, "nfe": 10}
    cost = {"value": 3.0, "n": 64, "hardware": "1 x cpu (2 cores)", "sampling": {}, "nfe": 250}
    put("ddpm", "ddpm", metrics={DISTANCE: [entry(5.0, nfe=250), entry(4.0, **fast)], SECONDS: [cost]})
    put("ncsn", "ncsn", metrics={DISTANCE: [entry(6.0, nfe=250), entry(7.0, **fast)], SECONDS: [cost]})
    for name, beta, distance in (("vae", 1.0, 9.0), ("vae-beta10", 10.0, 8.0)):
        metrics = {DISTANCE: [entry(distance)], f"{DISTANCE}_floor": [floor(1.5, n=1000)]}
        put(name, beta=beta, metrics=metrics)
    caption, rows = short(tmp_path)
    assert rows == [
        ["[ddpm](results/digits/ddpm.json) (sampler=ddim)", "4", "-", "10", "-"],
        ["[ncsn](results/digits/ncsn.json)", "6", "-", "250", "3"],
        ["[vae](results/digits/vae-beta10.json), beta=10.0", "8", "-", "1", "-"],
        ["real images (digits test)", "1.5", "-", "-", "-"],
    ]
    assert f"`{DISTANCE}` of 1000 samples, ema weights, against the 1501 images of digits train." in caption
    assert caption.endswith("Seconds: 1 x cpu (2 cores).")


def test_only_the_protocol_of_most_runs_is_shown(put, tmp_path, entry):
    put("a", "vae", metrics={DISTANCE: [entry(5.0)]})
    put("b", "mmd_vae", metrics={DISTANCE: [entry(4.0), entry(2.0, weights="raw")]})
    put("c", "ddpm", metrics={DISTANCE: [entry(1.0, n=500)]})
    put("d", "ncsn", metrics={DISTANCE: [entry("nan")]})
    caption, rows = short(tmp_path)
    assert [(row[0].partition("]")[0], row[1]) for row in rows] == [("[mmd_vae", "4"), ("[vae", "5")]
    assert caption.endswith("Not measured in this way: ddpm, ncsn.")


def test_bits_per_dim_are_the_fewest_of_one_protocol_and_the_caption_names_them(put, tmp_path, entry):
    def of(name, *pairs, model="vae", **fields):
        bits = {metric: [{"value": value} | BOUND | fields] for metric, value in pairs}
        put(name, model, metrics={DISTANCE: [entry(5.0)], **bits})

    of("a", ("elbo_bits_per_dim", 4.2), ("iwae_bits_per_dim", 4.1), ("elbo_given_label_bits_per_dim", 1.0))
    of("b", ("elbo_bits_per_dim", 4.3), ("codes_bits_per_dim", 0.5), model="vqvae")
    of("c", ("elbo_bits_per_dim", 1.0), model="ddpm", n=9)
    of("d", ("flow_bits_per_dim", 4.5), model="ncsn", kind="exact")
    of("e", ("energy_bits_per_dim", 0.1), model="mmd_vae", kind="energy")
    caption, rows = short(tmp_path)
    found = {row[0].partition("]")[0]: row[2] for row in rows}
    assert found == {"[vae": "4.1", "[vqvae": "4.3", "[ddpm": "-", "[ncsn": "4.5", "[mmd_vae": "-"}
    assert (
        "256 test images, ema weights; exact: negative log-likelihood (ncsn); upper bounds: ELBO (vqvae), IWAE (vae)."
        in caption
    )


def test_times_of_several_machines_say_which(put, tmp_path, entry):
    for model, hardware in (("vae", "1 x cpu (2 cores)"), ("mmd_vae", "1 x NVIDIA H100")):
        cost = {"value": 3.0, "hardware": hardware, "sampling": {}, "nfe": 1}
        put(model, model, metrics={DISTANCE: [entry(5.0)], SECONDS: [cost]})
    caption, rows = short(tmp_path)
    assert "Seconds" not in caption and {row[4] for row in rows} == {"3 (1 x cpu (2 cores))", "3 (1 x NVIDIA H100)"}


def test_conditional_runs_have_a_row_of_their_own(put, tmp_path, entry):
    put("ddpm", "ddpm", class_conditional=False, metrics={DISTANCE: [entry(5.0)]})
    put("told", "ddpm", class_conditional=True, metrics={DISTANCE: [entry(3.0, sampling={"labels": "balanced"})]})
    assert [row[0] for row in short(tmp_path)[1]] == [
        "[ddpm](results/digits/told.json), class_conditional=True (labels=balanced)",
        "[ddpm](results/digits/ddpm.json), class_conditional=False",
    ]


def test_records_of_earlier_versions_share_a_table_with_todays(put, tmp_path, entry):
    old = {"channels": 32, "network": "refinenet", "attention_resolutions": [], "levels": 20}
    put("old", "ncsn", metrics={DISTANCE: [entry(5.0)]}, **old)
    put("new", "ncsn", metrics={DISTANCE: [entry(4.0)]}, network={"name": "refinenet", "channels": 8}, levels=20)
    assert [row[0] for row in short(tmp_path)[1]] == ["[ncsn](results/digits/new.json), network.channels=8"]
    kept = catalogue.todays_fields({"name": "somebody.elses", "channels": 1})
    assert kept == {"name": "somebody.elses", "channels": 1}


@pytest.mark.parametrize(
    "path", sorted((ROOT / "results").glob("*/*.json")), ids=lambda path: f"{path.parent.name}/{path.stem}"
)
def test_every_record_lies_under_its_data_and_reads_in_todays_fields(path):
    config = json.loads(path.read_text())["config"]
    assert config["data"]["name"] == path.parent.name.partition("_")[0]
    model = catalogue.todays_fields(config["model"])
    assert set(model) == {"name", *fields_of(build.find_make(model["name"]))}


# --- the models ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("module", build.MODELS.values())
def test_every_model_says_what_it_is_and_whose(module):
    path = ROOT / f"{module.replace('.', '/')}.py"
    what, papers = catalogue.described(ast.get_docstring(ast.parse(path.read_text())))
    assert 10 < len(what) < 130 and papers and f"| {what} | {'; '.join(papers)} |" in catalogue.models(ROOT)


def test_citations_are_found_in_all_their_forms():
    docstring = """A model of things (Ho, Jain & Abbeel 2020, https://arxiv.org/abs/1; v2: van den Oord et al.
    2016).

    As in Kingma & Welling 2013, "Auto-encoding", section 4, and in Ho, Jain & Abbeel 2020; since 1999 and in May 2001."""
    assert catalogue.described(docstring) == (
        "A model of things",
        ["[Ho, Jain & Abbeel 2020](https://arxiv.org/abs/1)", "van den Oord et al. 2016", "Kingma & Welling 2013", "May 2001"],
    )
