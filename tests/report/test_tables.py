"""Tables of runs: what may share a column, which is best, where real images stand."""

import pytest

from gm_jax.report import names, runs, tables

DISTANCE = "frechet_digits_classifier_1k_train"


def table_of(*workdirs, main=False):
    read = runs.read(workdirs)
    return tables.build({run.label: run.summary for run in read}, main)


def texts(table, column):
    return [row.cells[column].text for row in table.rows]


@pytest.mark.parametrize(
    "other",
    [
        {"n": 500},
        {"weights": "raw"},
        {"split": "test"},
        {"k": 5},
        {"extractor": {"name": "digits_classifier", "digest": "00" * 32}},
        {"reference": {"name": "digits train", "n": 1501, "digest": "00" * 32}},
        {"a_field_of_the_future": 1},
    ],
)
def test_another_protocol_is_another_column(make_run, entry, other):
    a = make_run("a", metrics={DISTANCE: [entry(3.0)]})
    b = make_run("b", metrics={DISTANCE: [entry(2.0, **other)]})
    table = table_of(a, b)
    assert len(table.columns) == 2 and len({(c.name, c.conditions) for c in table.columns}) == 2
    assert not any(cell.best for row in table.rows for cell in row.cells)
    assert sorted(texts(table, 0) + texts(table, 1)) == ["2", "3", "not run", "not run"]


@pytest.mark.parametrize(
    "same", [{"seed": 1}, {"device": "1 x gpu"}, {"stderr": 0.5}, {"step": 100}, {"nfe": 9, "sampling": {"steps": 9}}]
)
def test_what_belongs_to_the_run_shares_the_column(make_run, entry, same):
    a, b = make_run("a", metrics={DISTANCE: [entry(3.0)]}), make_run("b", metrics={DISTANCE: [entry(2.0, **same)]})
    table = table_of(a, b)
    assert len(table.columns) == 1 and [row.cells[0].best for row in table.rows] == [False, True]


def test_best_follows_the_meaning_of_the_metric(make_run, entry):
    metrics = [
        {DISTANCE: [entry(v)], "precision_digits_classifier_1k_train": [entry(v)], "active_units": [entry(v)]}
        for v in (1.0, 2.0)
    ]
    table = table_of(*(make_run(name, metrics=m) for name, m in zip("ab", metrics, strict=True)))
    best = {c.name: [row.cells[j].best for row in table.rows] for j, c in enumerate(table.columns)}
    assert best == {
        DISTANCE: [True, False],
        "precision_digits_classifier_1k_train": [False, True],
        "active_units": [False, False],
    }


def test_a_value_that_is_not_finite_is_shown_and_never_best(make_run, entry):
    workdirs = [make_run(name, metrics={DISTANCE: [entry(v)]}) for name, v in zip("abc", ("nan", 2.0, 3.0), strict=True)]
    table = table_of(*workdirs)
    assert texts(table, 0) == ["nan", "2", "3"] and [row.cells[0].best for row in table.rows] == [False, True, False]


def test_ways_of_sampling_are_rows_and_only_the_last_checkpoint_counts(make_run, entry):
    fast = {"sampling": {"steps": 10}, "nfe": 10}
    elbo = {"value": 4.0, "n": 256, "split": "test", "weights": "ema", "kind": "bound"}
    judged = [entry(9.0, **fast), entry(5.0, nfe=250), entry(50.0, nfe=250, step=100)]
    table = table_of(make_run("ddpm", "ddpm", metrics={DISTANCE: judged, "elbo_bits_per_dim": [elbo]}))
    assert [(row.label, row.note) for row in table.rows] == [("ddpm", "NFE 250"), ("ddpm", "steps=10, NFE 10")]
    assert texts(table, 0) == ["5", "9"] and texts(table, 1) == ["4", ""]


def test_an_older_checkpoint_and_several_seeds_are_said(make_run, entry):
    seeds = [entry(1.0), entry(2.0, seed=1)]
    table = table_of(make_run("a", metrics={DISTANCE: seeds}), make_run("b", metrics={DISTANCE: [entry(3.0, step=100)]}))
    assert texts(table, 0) == ["1; 2", "3"]
    assert [row.cells[0].note for row in table.rows] == ["seeds 0, 1", "at step 100"]


def test_real_images_stand_below_in_the_column_of_their_protocol(make_run, entry, floor):
    other = {"name": "other", "n": 9, "digest": "00"}
    metrics = {DISTANCE: [entry(9.0), entry(7.0, reference=other)], f"{DISTANCE}_floor": [floor(3.0)]}
    table = table_of(make_run("a", metrics=metrics), make_run("b", metrics=metrics))
    row = table.rows[-1]
    found = {c.protocol["reference"]["name"]: cell for c, cell in zip(table.columns, row.cells, strict=True)}
    assert row.floor and row.note == "digits test" and len(table.rows) == 3 and len(table.columns) == 2
    assert (found["digits train"].text, found["digits train"].note, found["other"].text) == ("3", "n=296", "")
    assert not any(cell.best for cell in row.cells)


def test_real_images_at_another_n_have_a_column_of_their_own(make_run, entry, floor):
    metrics = {DISTANCE: [entry(9.0)], "frechet_digits_classifier_296_train_floor": [floor(3.0)]}
    table = table_of(make_run("a", metrics=metrics), make_run("b", metrics=metrics))
    assert [c.name for c in table.columns] == [DISTANCE, "frechet_digits_classifier_296_train"]
    assert [[cell.text for cell in row.cells] for row in table.rows] == [["9", "not run"], ["9", "not run"], ["", "3"]]


def test_the_extractor_is_named_where_the_metric_does_not(make_run, entry):
    names_of_metrics = ("fid768_1k_train", "nearest_feature_distance", DISTANCE)
    extractors = ("inception768", "inception768", "digits_classifier")
    pairs = zip(names_of_metrics, extractors, strict=True)
    run = make_run("a", metrics={name: [entry(1.0, extractor={"name": x, "digest": "ab"})] for name, x in pairs})
    assert [(c.name, "inception768" in c.conditions) for c in table_of(run).columns] == [
        ("fid768_1k_train", False),
        (DISTANCE, False),
        ("nearest_feature_distance", True),
    ]
    assert not any("digits_classifier" in c.conditions for c in table_of(run).columns)


@pytest.mark.parametrize(
    ("entry_", "text"),
    [
        ({"value": 6.2891, "stderr": 0.0194}, "6.289 ± 0.019"),
        ({"value": 85.12, "std": 12.3}, "85 ± 12 s.d."),
        ({"value": 13391.4, "stderr": 41.0}, "13391 ± 41"),
        ({"value": 22.36088, "unit": "dB"}, "22.36 dB"),
        ({"value": 0.5, "stderr": 0.0}, "0.5"),
        ({"value": "inf", "stderr": "nan"}, "inf"),
    ],
)
def test_numbers_stop_at_the_second_digit_of_their_error(entry_, text):
    assert tables.number(entry_) == text


def test_runs_of_one_model_are_told_apart_by_what_differs(make_run):
    settings = {"a": (0.1, 16), "b": (10.0, 16)}
    read = runs.read([make_run(name, beta=beta, latent=latent) for name, (beta, latent) in settings.items()])
    summaries = [run.summary for run in read]
    assert tables.labels(summaries) == ["vae, beta=0.1", "vae, beta=10.0"]
    assert list(tables.labelled([summaries[0]] * 3)) == ["vae", "vae #2", "vae #3"]


def test_short_tables_hold_the_main_metrics_in_a_fixed_order(make_run, entry):
    found = ["reconstruction_mse", "elbo_nats", "elbo_bits_per_dim", "kid768_1k_train", "fid768_1k_train", "unheard_of"]
    run = make_run("a", metrics={name: [entry(1.0)] for name in found})
    assert [c.name for c in table_of(run, main=True).columns] == ["fid768_1k_train", "elbo_bits_per_dim", "reconstruction_mse"]
    assert [c.name for c in table_of(run).columns][-1] == "unheard_of" and len(table_of(run).columns) == len(found)


def test_costs_name_what_sampling_takes(make_run, entry):
    metrics = {DISTANCE: [entry(1.0, nfe=50)], "cost_seconds_per_1000_samples": [entry(40.8, nfe=50)]}
    (run,) = runs.read([make_run("a", metrics=metrics)])
    heads, (row,) = tables.costs({"a": run.summary})
    cells = dict(zip(heads, row, strict=True))
    assert (cells["parameters"], cells["minutes"], cells["images/s"], cells["NFE"]) == ("4,532", "0.25", "667", "50")
    assert cells["s / 1000 samples"] == "40.8 (NFE 50, 1 x cpu)" and DISTANCE not in cells


@pytest.mark.parametrize(
    ("name", "group", "better"),
    [
        ("fid1k_train", "sample quality", "lower"),
        ("is_digits_classifier_1k", "sample quality", "higher"),
        ("is1k", "sample quality", "higher"),
        ("recall768_1k_train", "sample quality", "higher"),
        ("flow_bits_per_dim", "likelihood", "lower"),
        ("reconstruction_psnr", "reconstruction", "higher"),
        ("isotropy", "other", ""),
        ("fiducial", "other", ""),
    ],
)
def test_names_of_metrics_are_understood(name, group, better):
    assert (names.meaning(name).group, names.meaning(name).better) == (group, better)


def test_a_bar_in_a_cell_does_not_break_the_markdown():
    assert tables.markdown(["a"], [["I(x|z)"]]) == "| a |\n| --- |\n| I(x\\|z) |\n"
