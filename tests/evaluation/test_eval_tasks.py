import json
import os

import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.evaluation import results, tasks
from gm_jax.evaluation.context import Task


@pytest.fixture
def measured(monkeypatch):
    """A task that measures what the test tells it to, quickly."""
    numbers = {"fid": {"value": 1.0}}
    monkeypatch.setitem(tasks.TASKS, "judge", Task(lambda context: numbers, "a test's own", 5, sampler=True))
    return numbers


def stored(context):
    return json.loads((context.out / "results.json").read_text())


def one_line(error):
    assert "\n" not in str(error.value)
    return str(error.value)


def test_entries_carry_their_origin(context):
    written = tasks.evaluate(("likelihood", "samples"), context._replace(n=4, weights="raw", seed=2, options={"width": 0.5}))
    content = stored(context)
    [entry] = content["metrics"]["elbo_bits_per_dim"]
    assert entry == written["metrics"]["elbo_bits_per_dim"]
    origin = {"task": "likelihood", "n": 4, "weights": "raw", "seed": 2, "step": 7, "split": "test", "kind": "bound"}
    assert origin.items() <= entry.items()
    assert set(entry["versions"]) == {"gm_jax", "jax", "flax"} and "device" in entry
    assert "sampling" not in entry  # sampling options do not bear on a likelihood
    picture = content["pictures"]["samples.png"]
    assert {"task": "samples", "sampling": {"width": 0.5}, "nfe": 12, "n": 4}.items() <= picture.items()


def test_likelihood_options_reach_those_that_take_them_and_are_recorded(context):
    plain = tasks.evaluate(("likelihood",), context)["metrics"]
    scaled = tasks.evaluate(("likelihood",), context._replace(likelihood_options={"scale": 3}))["metrics"]
    assert scaled["elbo_nats"]["value"] == pytest.approx(3 * plain["elbo_nats"]["value"])
    assert scaled["elbo_nats"]["options"] == {"scale": 3} and "options" not in plain["elbo_nats"]
    assert scaled["twice_nats"]["value"] == plain["twice_nats"]["value"] and "options" not in scaled["twice_nats"]
    with pytest.raises(InputError) as error:
        tasks.evaluate(("likelihood",), context._replace(likelihood_options={"scales": 3}))
    assert "no likelihood option 'scales'" in one_line(error) and "take scale" in one_line(error)


def test_other_measurements_are_kept_and_repetitions_replaced(context, measured):
    for weights, options, value in (("ema", {}, 1.0), ("raw", {}, 2.0), ("ema", {"width": 3.0}, 3.0), ("ema", {}, 4.0)):
        measured["fid"] = {"value": value}
        tasks.evaluate(("judge",), context._replace(weights=weights, options=options))
    measured["fid"] = {"value": 5.0}
    tasks.evaluate(("judge",), context._replace(step=8))
    tasks.evaluate(("likelihood",), context)
    content = stored(context)
    assert [entry["value"] for entry in content["metrics"]["fid"]] == [2.0, 3.0, 4.0, 5.0]
    assert "elbo_nats" in content["metrics"]


def test_tuples_and_numpy_options_do_not_hide_a_repetition(context, measured):
    context = context._replace(model=context.model._replace(nfe=None), options={"levels": (1, 2), "width": np.float32(0.5)})
    tasks.evaluate(("judge",), context)
    tasks.evaluate(("judge",), context)
    [entry] = stored(context)["metrics"]["fid"]
    assert entry["sampling"] == {"levels": [1, 2], "width": 0.5}


def test_numbers_that_are_not_finite_are_words_in_strict_json(context, measured):
    measured["fid"] = {"value": float("nan"), "stderr": np.float64("inf"), "range": [-np.inf, np.int64(3), None]}
    tasks.evaluate(("judge",), context)

    def refuse(constant):
        raise AssertionError(f"{constant} is not JSON")

    content = json.loads((context.out / "results.json").read_text(), parse_constant=refuse)
    [entry] = content["metrics"]["fid"]
    assert (entry["value"], entry["stderr"], entry["range"]) == ("nan", "inf", ["-inf", 3, None])


def test_interrupted_write_keeps_the_old_results(context, measured, monkeypatch):
    tasks.evaluate(("judge",), context)
    before = (context.out / "results.json").read_bytes()

    def die(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", die)
    with pytest.raises(KeyboardInterrupt):
        tasks.evaluate(("judge",), context._replace(step=9))
    assert (context.out / "results.json").read_bytes() == before
    assert os.listdir(context.out) == ["results.json"]


def test_results_of_finished_tasks_survive_a_later_failure(context, measured, monkeypatch):
    def fail(context):
        raise RuntimeError("boom")

    monkeypatch.setitem(tasks.TASKS, "failing", Task(fail, "fails", 1))
    with pytest.raises(RuntimeError, match="boom"):
        tasks.evaluate(("judge", "failing"), context)
    assert "fid" in stored(context)["metrics"]


def test_unknown_task_names_the_nearest(context):
    with pytest.raises(InputError) as error:
        tasks.evaluate(("sampels",), context)
    assert "unknown task 'sampels'; did you mean 'samples'?" in one_line(error)
    with pytest.raises(InputError, match="no task given"):
        tasks.evaluate((), context)


def test_task_beyond_the_model_stops_before_any_work(context):
    ddpm = context.model._replace(encode=None, decode=None, posterior=None)
    context = context._replace(model=ddpm, model_name="ddpm")
    with pytest.raises(InputError) as error:
        tasks.evaluate(("samples", "reconstructions"), context)
    assert "ddpm has no encoder" in one_line(error) and "samples, denoising, completion, likelihood" in one_line(error)
    assert not context.out.exists()


def test_all_skips_what_the_model_cannot_do(context):
    ddpm = context.model._replace(encode=None, decode=None, posterior=None, complete=None, likelihoods=())
    written = tasks.evaluate(("all",), context._replace(model=ddpm, model_name="ddpm", n=2))
    assert set(written["pictures"]) == {"samples.png", "denoising.png", "denoising.gif"}
    missing = {"reconstructions": "encoder", "interpolation": "encoder", "likelihood": "likelihood", "completion": "completion"}
    assert written["skipped"].items() >= {name: f"ddpm has no {what}" for name, what in missing.items()}.items()


def test_all_does_everything_that_the_toy_can(context):
    written = tasks.evaluate(("all",), context)
    no_classifier = {"quality", "neighbours"}  # no labels to train one on
    of_others = {"classes", "points", "solvers", "straightness", "style_mixing", "truncation", "walk"}
    assert set(written["skipped"]) == no_classifier | of_others
    assert set(os.listdir(context.out)) == {*written["pictures"], "results.json"}
    content = stored(context)
    assert content["pictures"]["interpolation.png"]["n"] == 5  # the default of 8 pairs gives way to 11 images
    assert content["metrics"]["elbo_nats"][0]["n"] == 11


@pytest.mark.parametrize(
    "name, n", [("reconstructions", 12), ("interpolation", 6), ("completion", 12), ("likelihood", 12), ("samples", 0)]
)
def test_n_beyond_the_data_is_refused(context, name, n):
    with pytest.raises(InputError) as error:
        tasks.evaluate((name,), context._replace(n=n))
    assert f"{n}" in one_line(error)


def test_unknown_sampling_option_is_one_line(context):
    with pytest.raises(InputError) as error:
        tasks.evaluate(("samples",), context._replace(options={"wdith": 2}))
    assert "toy refuses the sampling options" in one_line(error) and "wdith" in one_line(error)


def test_images_that_cannot_be_drawn_are_refused(context):
    dataset = context.dataset._replace(image_shape=(4, 4, 4))
    with pytest.raises(InputError, match="toy has no picture"):
        tasks.evaluate(("samples",), context._replace(dataset=dataset))


@pytest.mark.parametrize("text", ["{broken", "[]", '{"metrics": 3, "pictures": {}}'])
def test_unreadable_results_are_left_alone(context, text):
    context.out.mkdir()
    (context.out / "results.json").write_text(text)
    with pytest.raises(InputError, match="results.json"):
        tasks.evaluate(("samples",), context)
    assert (context.out / "results.json").read_text() == text
    assert os.listdir(context.out) == ["results.json"]


def test_output_folder_that_is_a_file_is_one_line(context):
    context.out.write_text("")
    with pytest.raises(InputError) as error:
        tasks.evaluate(("samples",), context)
    assert "another output folder" in one_line(error)


def test_help_has_a_line_for_each_task():
    lines = tasks.help_text().splitlines()
    assert [line.split()[0] for line in lines] == [*tasks.TASKS, "all"]


def test_reading_no_file_gives_no_results(tmp_path):
    assert results.read(tmp_path / "results.json") == {"metrics": {}, "pictures": {}}


def test_all_does_without_what_one_test_image_cannot_do(context):
    one = context._replace(dataset=context.dataset._replace(x_test=context.dataset.x_test[:1]))
    written = tasks.evaluate(("all",), one)
    assert written["skipped"]["interpolation"] == "the test split has 1 examples, 2 are needed"
    assert {"samples.png", "reconstructions.png"} <= set(written["pictures"])
    with pytest.raises(InputError, match="the test split has 1 images"):
        tasks.evaluate(("interpolation",), one)
