import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from gm_jax.core import Batch, Objective, Variables
from gm_jax.evaluation import cost, tasks
from gm_jax.models import classifier, ddpm
from gm_jax.system import provenance
from gm_jax.system.flops import flops
from gm_jax.training import workdirs
from tests.evaluation.conftest import DIMS

PRODUCT = 2 * DIMS**2  # FLOPs that the toy's matrix takes of an image
BATCH = 8


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(cost, "MIN_SECONDS", 0.0)


@pytest.fixture
def trained(context, tmp_path):
    """The toy as two objectives, of one and of two products an image (and their gradients), and the records of its run."""

    def loss_of(products):
        def loss(params, state, key, batch, *, step, train):
            x = batch.x.reshape(len(batch.x), -1)
            for _ in range(products):
                x = x @ params["mix"]
            return jnp.mean(x**2), (state, {})

        return loss

    objectives = (Objective("often", loss_of(1), stop=4), Objective("seldom", loss_of(2), start=4, every=2))
    record = workdirs.Record(
        config={"data": {}, "train": {"batch_size": BATCH}},
        image_shape=(4, 4, 1),
        num_classes=None,
        class_names=None,
        train_images=16,
        data_digest="",
        parameters=DIMS**2,
        init_from={},
        hardware="2 x abacus",
        versions={"jax": "0"},
    )
    workdirs.write(tmp_path, record)
    lines = [{"step": 2, "steps_per_second": 4.0}, {"step": 10, "steps_per_second": 2.0}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return context._replace(model=context.model._replace(objectives=objectives), workdir=tmp_path, step=10)


def test_sampling_costs_what_it_takes(context, quick):
    measured = tasks.evaluate(("cost",), context._replace(n=3))["metrics"]
    assert measured["cost_parameters"]["value"] == DIMS**2
    assert measured["cost_nfe"]["value"] == 12
    assert measured["cost_sample_flops_per_image"]["value"] == PRODUCT
    assert measured["cost_network_flops_per_image"]["value"] == PRODUCT / 12
    seconds = measured["cost_seconds_per_1000_samples"]
    assert 0 < seconds["value"] < 1000 and seconds["repeats"] == cost.MIN_BATCHES
    assert measured["cost_compile_seconds"]["value"] > 1e-3
    held = 4 * DIMS**2 + 3 * (8 + DIMS)  # the matrix, and keys and pixels of three samples
    assert held <= measured["cost_sampler_memory_bytes"]["value"] < 10 * held
    assert measured["cost_peak_process_memory_bytes"]["value"] > 1e7
    assert not any(name.startswith("cost_train") for name in measured)


def test_entries_state_what_bears_on_them_and_no_more(context, quick):
    measured = tasks.evaluate(("cost",), context._replace(n=64, batch_size=4, options={"width": 2.0}))["metrics"]
    timed, parameters = measured["cost_seconds_per_1000_samples"], measured["cost_parameters"]
    assert timed["n"] == 4 and timed["sampling"] == {"width": 2.0} and timed["nfe"] == 12
    assert timed["hardware"] == provenance.hardware()
    assert not {"weights", "seed", "step"} & set(timed)
    assert not {"n", "weights", "seed", "step", "sampling", "nfe"} & set(parameters)


def test_a_repeat_replaces_its_forerunner_and_other_sampling_stands_beside_it(trained, quick, monkeypatch):
    tasks.evaluate(("cost",), trained)
    (trained.workdir / "metrics.jsonl").write_text('{"step": 12, "steps_per_second": 4.0}\n')
    monkeypatch.setattr(cost, "MIN_BATCHES", 5)
    tasks.evaluate(("cost",), trained._replace(step=12, seed=3, weights="raw"))
    tasks.evaluate(("cost",), trained._replace(step=12, options={"width": 2.0}))
    stored = json.loads((trained.out / "results.json").read_text())["metrics"]
    several = {name: len(entries) for name, entries in stored.items()}
    unsampled = ("cost_parameters", *(name for name in stored if name.startswith("cost_train")))
    assert several == {name: 1 if name in unsampled else 2 for name in stored} and len(unsampled) == 4
    assert stored["cost_seconds_per_1000_samples"][0]["repeats"] == 5
    assert stored["cost_train_minutes"][0]["value"] == pytest.approx(3 / 60)


def test_training_costs_are_those_of_the_records(trained, quick):
    measured = tasks.evaluate(("cost",), trained)["metrics"]
    speed, minutes = measured["cost_train_images_per_second"], measured["cost_train_minutes"]
    assert speed["value"] == pytest.approx(10 * BATCH / (2 / 4 + 8 / 2)) and minutes["value"] == pytest.approx(4.5 / 60)
    assert speed["device"] == speed["hardware"] == "2 x abacus" and speed["versions"] == {"jax": "0"}
    step = measured["cost_train_flops_per_image"]
    once = {"often": 2 * PRODUCT, "seldom": 5 * PRODUCT}  # forward, and gradients: of the matrix, and of what comes before
    assert step["by_objective"] == once and step["batch_size"] == BATCH
    assert step["value"] == pytest.approx((4 * once["often"] + 3 * once["seldom"]) / 10)


@pytest.mark.parametrize(("steps", "expected"), [(3, 0), (5, 0), (6, 1), (9, 2), (20, 3)])
def test_updates_are_counted_within_the_window(steps, expected):
    assert cost.updates(Objective("o", None, start=3, stop=12, every=3), steps) == expected


def test_the_first_batch_warms_up_and_a_long_one_is_enough():
    ticks = iter(np.cumsum([0, 5.0, 0, 0.5, 0, 0.25, 0, 0.125, 0, 0.25]))
    assert cost.timed(lambda: None, lambda: next(ticks)) == [0.5, 0.25, 0.125, 0.25]
    ticks = iter([0, 11.0])
    assert cost.timed(lambda: None, lambda: next(ticks)) == [11]


def test_compiled_programs_of_earlier_processes_are_not_taken_for_compilation(tmp_path):
    def compile_new():
        jax.jit(lambda x: jnp.tanh(x) + len(list(tmp_path.iterdir()))).lower(1.0).compile()
        return any(tmp_path.iterdir())

    settings = {
        "jax_compilation_cache_dir": str(tmp_path),
        "jax_persistent_cache_min_compile_time_secs": 0.0,
        "jax_enable_compilation_cache": True,
    }
    before = {name: getattr(jax.config, name) for name in settings}
    try:
        for name, value in settings.items():
            jax.config.update(name, value)
        with cost.compilation_cache_off():
            assert not compile_new()
        assert compile_new()
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def test_one_evaluation_of_a_diffusion_model_is_one_of_its_network(context):
    network = {"name": "unet", "channels": 8, "channel_multipliers": (1,), "attention_resolutions": ()}
    model = ddpm.make((4, 4, 1), timesteps=30, network=network)
    keys = jax.random.split(jax.random.key(0), 1)
    params = jax.eval_shape(model.init, keys[0], Batch(jnp.zeros((1, 4, 4, 1)), None, keys)).params
    context = context._replace(model=model, variables=Variables(params))

    def of(**options):
        found = cost.sampling_arithmetic(context._replace(options=options))
        return [found[f"cost_{name}"]["value"] for name in ("nfe", "network_flops_per_image", "sample_flops_per_image")]

    nfe, network, sample = of()
    assert nfe == 30 and sample == 30 * network
    assert of(sampler="heun", steps=5) == [9, network, 9 * network]
    sampled = flops(lambda variables, keys: model.sample(variables, keys), context.variables, keys)
    assert sampled == sample


def test_a_classifier_draws_nothing(context):
    model = classifier.make((4, 4, 1), 3, channels=8)
    keys = jax.random.split(jax.random.key(0), 2)
    variables = jax.jit(model.init)(keys[0], Batch(jnp.zeros((2, 4, 4, 1)), None, keys))
    written = tasks.evaluate(("all",), context._replace(model=model, variables=variables, model_name="classifier"))
    drawing = ("samples", "quality", "neighbours", "cost")
    assert written["skipped"].items() >= dict.fromkeys(drawing, "classifier has no samples").items()
    assert not written["pictures"]
