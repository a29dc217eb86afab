"""The report: what it holds, that it holds it all itself, and how it refuses bad input."""

import base64
import io
import re
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from PIL import Image

from gm_jax.report import __main__ as report
from gm_jax.report import gallery, page, plots, published, runs

DISTANCE = "frechet_digits_classifier_1k_train"
PICTURES = ("samples.png", "reconstructions.png", "denoising.png", "denoising.gif")


def read(*workdirs):
    return runs.read(workdirs)


def one_data_set(*workdirs):
    (data,) = page.collect(read(*workdirs))
    return data


def written(*workdirs, out):
    assert report.main([*map(str, workdirs), "--out", str(out)]) == 0
    return (out / "index.html").read_text()


def test_the_page_needs_no_other_file(make_run, entry, tmp_path):
    workdirs = [make_run(name, pictures=PICTURES, metrics={DISTANCE: [entry(2.0)]}) for name in ("a", "b")]
    html = written(*workdirs, out=tmp_path / "out")
    assert sorted(file.name for file in (tmp_path / "out").iterdir()) == ["index.html", "report.md"]
    links = re.findall(r"""(?:src|href)=["']([^"']*)""", html) + re.findall(r"url\(([^)]*)", html)
    assert links and all(link.startswith(("data:", "#")) for link in links)
    assert html.count("data:image/png") == 2 * len(PICTURES)  # a film is one picture too
    assert "/private" not in html and str(tmp_path) not in html


def test_measured_published_and_not_run_are_told_apart(make_run, entry, tmp_path):
    metrics = {"fid768_1k_train": [entry(12.5)]}
    html = written(make_run("a", data="cifar10", metrics=metrics), make_run("b", data="cifar10"), out=tmp_path)
    assert re.search(r'<td class="measured">\s*12.5', html) and re.search(r'<td class="absent">not run', html)
    assert '<td class="published">129</td>' in html
    measured, _, others = html.partition("<h2>")[2].partition("Published, other protocols")
    assert "129" not in measured and "12.5" not in others.partition("<h3>")[0]
    markdown = (tmp_path / "report.md").read_text()
    assert "| a (NFE 1) | 12.5 |" in markdown and "| b | not run |" in markdown and "not measured here" in markdown


def test_published_figures_are_of_the_models_shown_and_cite_their_source():
    sources = published.of("cifar10", ["ddpm"])
    systems = [system for source in sources for system in source.systems]
    assert {system["model"] for system in systems} == {"ddpm"} and "3.17" in [system.get("FID") for system in systems]
    assert all(re.search(r"\b20\d\d\b", source.source) and source.protocol for source in sources)
    assert published.of("digits", ["ddpm"]) == []
    everything = published.of("cifar10", ["vae", "mmd_vae", "vqvae", "ncsn", "ddpm"])
    known = {"model", "system", *published.FIGURES}
    assert all(set(system) <= known for source in everything for system in source.systems)


def test_data_sets_have_tables_of_their_own(make_run, entry):
    metrics = {DISTANCE: [entry(2.0)]}
    digits, mnist = page.collect(read(make_run("a", metrics=metrics), make_run("b", data="mnist", metrics=metrics)))
    assert (digits.name, mnist.name) == ("digits", "mnist")
    assert [row.label for row in digits.table.rows] == ["a"] and [row.label for row in mnist.table.rows] == ["b"]


def test_remarks_stand_at_the_top(make_run, tmp_path):
    remarks = ["--remark=ncsn failed: loss < 0", "--remark=another"]
    assert report.main([str(make_run("a")), "--out", str(tmp_path), *remarks]) == 0
    page, markdown = ((tmp_path / name).read_text() for name in ("index.html", "report.md"))
    assert page.index("ncsn failed: loss &lt; 0") < page.index("another") < page.index("<h2>")
    assert markdown.index("**ncsn failed: loss < 0**") < markdown.index("**another**") < markdown.index("##")


def test_text_of_the_files_is_not_taken_for_html(make_run, entry, tmp_path):
    html = written(make_run("a", model="<script>alert(1)</script>", metrics={"<b>": [entry(1.0)]}), out=tmp_path)
    assert "<script>alert" not in html and "<b>" not in html.partition("<h2>")[2].partition("<td class")[0]


def titles(found):
    return [plot.title for plot in found]


def ink(svg: bytes, colour: str) -> int:
    """How many points the lines of a colour have."""
    paths = [node for node in ElementTree.fromstring(svg).iter() if f"stroke: {colour}" in node.get("style", "")]
    return sum(len(re.findall("[ML]", node.get("d", ""))) for node in paths)


def test_curves_show_train_and_held_out_loss_with_a_gap_where_it_was_not_finite(make_run):
    log = [{"step": i, "vae/loss": None if i == 5 else 10.0 - i} for i in range(10)] + [{"step": 9, "heldout/vae/loss": 3.0}]
    found = plots.training_curves(read(make_run("a", log=log), make_run("b", log=log[:3]), make_run("c", model="gan")))
    assert titles(found) == ["gan/loss", "vae/loss"]
    again = plots.training_curves(read(make_run("a", log=log), make_run("b", log=log[:3]), make_run("c", model="gan")))
    assert found == again  # the same bytes
    assert ink(found[1].svg, plots.COLOURS[0]) > ink(found[1].svg, plots.COLOURS[1]) > 0


def test_metrics_over_training_are_proxies_and_metrics_of_several_checkpoints(make_run, entry):
    log = [{"step": i, "proxy/frechet_x_256_train2560": 9.0 - i} for i in range(3)]
    metrics = {DISTANCE: [entry(3.0, step=200), entry(9.0, step=100)], "recall_x_1k_train": [entry(0.5)]}
    found = plots.metrics_over_training(read(make_run("a", log=log, metrics=metrics)))
    assert titles(found) == ["frechet_x_256_train2560 (proxy)", DISTANCE]


def test_quality_is_set_against_cost_where_costs_differ(make_run, entry, floor):
    ways = [entry(3.0, nfe=1000), entry(5.0, nfe=50, sampling={"steps": 50}), entry(4.0, nfe=20, sampling={"sampler": "heun"})]
    slow = {DISTANCE: ways, f"{DISTANCE}_floor": [floor(1.0)]}
    one, other = make_run("a", metrics={DISTANCE: [entry(9.0)]}), make_run("b", metrics=slow)
    (plot,) = plots.quality_against_cost(read(one, other))
    assert plot.title == DISTANCE
    assert ink(plot.svg, plots.COLOURS[1]) > ink(plot.svg, plots.COLOURS[0]) > 0
    assert plots.quality_against_cost(read(one)) == []


def test_a_sweep_needs_runs_that_differ_in_one_number_only(make_run, entry):
    def run(name, beta, **others):
        unknown = [entry(None, note="infinite", step=step) for step in (100, 200)]
        return make_run(name, beta=beta, metrics={"reconstruction_mse": [entry(beta)], "rate": unknown}, **others)

    betas = [run("a", 0.1), run("b", 1.0), run("c", 10.0)]
    assert titles(plots.sweeps(read(*betas))) == ["reconstruction_mse"]
    assert plots.metrics_over_training(read(*betas)) == []  # what has no value is not drawn
    assert plots.sweeps(read(*betas[:2])) == []
    assert plots.sweeps(read(*betas[:2], run("d", 10.0, latent=9))) == []
    (plot,) = plots.sweeps(read(*betas, run("d", 10.0, latent=9)))  # the three that are alike but for beta
    assert plot.svg == plots.sweeps(read(*betas, run("e", 0.1, latent=9)))[0].svg


def test_a_film_has_the_frames_of_the_animation_without_magnification(make_run):
    workdir = make_run("a", pictures=["denoising.png", "denoising.gif"])
    (section,) = one_data_set(workdir).pictures
    (film,) = section.films
    data = base64.b64decode(film.source.partition(",")[2])
    reel = np.asarray(Image.open(io.BytesIO(data)))
    original = gallery.decode((workdir / "denoising.gif").read_bytes())
    assert (film.frames, film.height, film.width) == (4, 12, 20) and reel.shape == (48, 20)
    np.testing.assert_array_equal(reel.reshape(4, 12, 20), original)
    exact = np.asarray(Image.open(workdir / "denoising.gif").convert("L"))
    np.testing.assert_array_equal(original[0].repeat(3, axis=0).repeat(3, axis=1), exact)


def test_pictures_stand_side_by_side_and_differing_seeds_are_said(make_run):
    a, b = make_run("a", pictures=["own_picture.png", "samples.png"]), make_run("b", pictures=["samples.png"])
    samples, own = one_data_set(a, b).pictures
    assert [picture.label for picture in samples.pictures] == ["a", "b"] and "differ" not in samples.text
    assert own.title == "Own picture" and len(own.pictures) == 1
    results = b / "results.json"
    results.write_text(results.read_text().replace('"seed": 0', '"seed": 1'))
    assert "differ" in one_data_set(a, b).pictures[0].text


def test_a_run_without_results_or_log_is_reported(make_run, tmp_path):
    workdir = make_run("a")
    (workdir / "results.json").unlink()
    (workdir / "metrics.jsonl").unlink()
    assert "Nothing has been measured yet" in written(workdir, out=tmp_path / "out")


def test_patterns_are_expanded_and_directories_without_a_run_are_named(make_run, tmp_path, capsys):
    for name in ("a", "b"):
        make_run(name)
    (tmp_path / "runs" / "empty").mkdir()
    out = tmp_path / "runs" / "report"
    html = written(tmp_path / "runs" / "*", out=out) and written(tmp_path / "runs" / "*", make_run("a"), out=out)
    messages = capsys.readouterr().err.splitlines()
    assert len(re.findall('<tr><th scope="row">[ab]</th>', html)) == 2  # each once, though named twice
    assert len(messages) == 2 and all("empty holds no run" in line for line in messages)  # nothing on its own output


def test_equal_names_give_way_to_paths(make_run):
    assert [run.label for run in read(make_run("a"), make_run("b/a"))] != ["a", "a"]


@pytest.mark.parametrize("kind", ["missing", "no run", "damaged", "picture", "out"])
def test_bad_input_is_one_line_and_exit_code_2(make_run, tmp_path, capsys, kind):
    workdir, out = make_run("a", pictures=["samples.png"]), tmp_path / "out"
    (tmp_path / "none").mkdir()
    if kind == "damaged":
        (workdir / "results.json").write_text("{")
    if kind == "picture":
        (workdir / "samples.png").unlink()
    if kind == "out":
        out.write_text("a file")
    given = {"missing": tmp_path / "missing", "no run": tmp_path / "none"}.get(kind, workdir)
    assert report.main([str(given), "--out", str(out)]) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1 and captured.out == ""
    assert not (out / "index.html").exists()
