"""A published file becomes a work directory that eval.py, train.py, load and train.init_from take; and goes out again."""

import json

import jax
import numpy as np
import pytest

from gm_jax import cli, experiment
from gm_jax.build import resolve
from gm_jax.cli import train
from gm_jax.cli.config import find_config, load_config, override
from gm_jax.cli.flags import parse
from gm_jax.core import Variables
from gm_jax.metrics.inception_weights import sha256
from gm_jax.nets.backbones import backbone
from gm_jax.pretrained import __main__ as program
from gm_jax.pretrained import formats, sources
from gm_jax.pretrained.loading import load
from gm_jax.system import provenance
from gm_jax.training import workdirs
from gm_jax.training.checkpoints import Checkpoints
from gm_jax.training.restore import graft
from gm_jax.training.run import prepare, record_of, restore_or_start
from gm_jax.training.watch import nobody
from tests.documented import COMMANDS
from tests.pretrained.fake import edm_pickle, edm_tensors
from tests.weights import drawn

SIZES = {"channels": 8, "channel_multipliers": (1,), "num_res_blocks": 1, "attention_resolutions": ()}
FIELDS = {
    "data.name": "digits",
    "model.augment_probability": 0,
    **{f"model.network.{key}": value for key, value in SIZES.items()},
}
TRAIN = ["--config", "edm:cifar10", *(f"--config.{key}={value}" for key, value in FIELDS.items())]


@pytest.fixture(scope="module")
def network():
    """Parameters of a small SongUNet for the digits."""
    net = backbone({"name": "song_unet", **SIZES}, (8, 8, 1))
    shapes = jax.eval_shape(net.init, jax.random.key(0), np.zeros((1, 8, 8, 1)), np.zeros(1), None)
    return drawn(shapes)


@pytest.fixture(scope="module")
def published(network, tmp_path_factory):
    """A file as of EDM with these parameters."""
    path = tmp_path_factory.mktemp("published") / "edm.pkl"
    edm_pickle(path, edm_tensors(network, SIZES, 8))
    return path


@pytest.fixture(scope="module")
def workdir(published):
    path = published.parent / "imported"
    assert program.main([str(published), "--out", str(path), "--config.data.name=digits"]) == 0
    return path


def assert_same(found, wanted):
    jax.tree.map(np.testing.assert_array_equal, found, wanted)


@pytest.mark.parametrize("weights", ["ema", "raw"])
def test_its_weights_are_loaded(workdir, network, weights):
    _, variables = experiment.load(workdir, weights)
    assert_same(variables.params["network"], network)


def test_config_json_says_where_they_come_from(workdir, published, network):
    record = workdirs.read(workdir)
    origin = record.init_from["params"]
    assert (origin["source"], origin["file"]) == (str(published), "edm.pkl")
    assert origin["sha256"] == sha256(published)
    assert origin["licence"] == "CC BY-NC-SA 4.0, if these are the weights of the authors of EDM"
    assert origin["digest"] == provenance.digest({"network": network})
    assert (record.config["model"]["network"]["channels"], record.image_shape) == (8, (8, 8, 1))


def test_eval_draws_samples_of_it(workdir, capsys):
    assert cli.eval_main([f"--workdir={workdir}", "--tasks=samples", "--n=4", "--config.eval.sample.steps=2"]) == 0
    assert json.loads((workdir / "results.json").read_text())["pictures"]


def test_another_run_starts_from_it(workdir, network):
    fresh = Variables({"network": jax.tree.map(np.zeros_like, network)})
    variables, origins = graft(fresh, {"params": f"{workdir}:ema"})
    assert_same(variables.params["network"], network)
    assert origins["params"]["step"] == 0


def test_the_same_config_goes_on_and_another_is_refused(workdir, network, capsys):
    assert cli.train_main([*TRAIN, f"--workdir={workdir}", "--config.model.P_std=1.3"]) == 2
    assert "holds another run: model.P_std is 1.2 there and 1.3 here" in capsys.readouterr().err
    flags, overrides = parse(train._parser(), TRAIN)
    name, _, preset = flags.config.partition(":")
    run = prepare(override(load_config(find_config(name), preset), overrides), workdir, None, nobody)
    assert workdirs.check(workdir, record_of(run, {}), resolve)
    with Checkpoints(workdir) as checkpoints:
        state, record = restore_or_start(run, checkpoints)
    assert int(state.step) == 0
    assert_same(state.params["network"], network)
    assert record.init_from == workdirs.read(workdir).init_from


def test_it_goes_out_and_comes_back(workdir, network, tmp_path):
    folder, again = tmp_path / "exported", tmp_path / "again"
    assert program.main([str(workdir), "--export", str(folder)]) == 0
    content = json.loads((folder / "config.json").read_text())
    assert content["sha256"] == sha256(folder / "model.safetensors")
    assert content["licence"].startswith("CC BY-NC-SA 4.0")
    names = formats.read_safetensors(folder / "model.safetensors").keys()
    assert {"params/network/conv_in/kernel", "params/network/middle_block0/query/bias"} <= names

    model, variables = load(folder)
    assert_same(variables.params["network"], network)
    keys = jax.random.split(jax.random.key(0), 2)
    ours, _ = experiment.load(workdir)
    np.testing.assert_array_equal(model.sample(variables, keys, steps=2), ours.sample(variables, keys, steps=2))

    assert program.main([str(folder), "--out", str(again)]) == 0
    assert_same(experiment.load(again)[1].params["network"], network)
    assert workdirs.read(again).config == workdirs.read(workdir).config


def test_a_file_is_loaded_without_a_work_directory(published, network):
    model, variables = load(published)
    assert_same(variables.params["network"], network)
    assert model.num_classes is None


def test_a_model_with_other_parts_goes_out_too(tmp_path):
    settings = {
        "model": {"name": "tests.toys.toy_batchnorm"},
        "data": {"name": "digits"},
        "train": {"steps": 2, "batch_size": 8},
    }
    config = resolve(settings)
    experiment.train(config, tmp_path / "run", quiet=True)
    assert program.main([str(tmp_path / "run"), "--export", str(tmp_path / "out"), "--weights", "raw"]) == 0
    _, variables = experiment.load(tmp_path / "run", "raw")
    _, found = load(tmp_path / "out")
    assert jax.tree.leaves(found.state)
    assert_same(found, variables)


# --- refusals -----------------------------------------------------------------------------------------------------------------


def refusal(capsys, *argv):
    assert program.main([str(arg) for arg in argv]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    return lines[0]


def test_what_is_asked_wrongly_is_one_line(workdir, published, tmp_path, capsys):
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").write_text("mine")
    out = tmp_path / "out"
    assert "holds a run already" in refusal(capsys, published, "--out", workdir)
    assert "holds files (file) but no config.json" in refusal(
        capsys, published, "--out", tmp_path / "used", "--config.data.name=digits"
    )
    assert "no checkpoint at" in refusal(capsys, tmp_path / "absent", "--out", out)
    assert "images of 8x8x1, data.name has images of 28x28x1" in refusal(
        capsys, published, "--out", out, f"--config.data.name=arrays:{arrays(tmp_path)}"
    )
    assert "give --out WORKDIR" in refusal(capsys, published)
    assert "no bearing on --export" in refusal(capsys, workdir, "--export", out, "--licence=MIT")
    assert "no bearing on --out" in refusal(capsys, published, "--out", out, "--weights=raw")
    assert "holds no run" in refusal(capsys, tmp_path, "--export", out)
    assert "holds files already" in refusal(capsys, workdir, "--export", tmp_path / "used")
    assert "unknown" in refusal(capsys, published, "--out", out, "--config.model.sdee=1")
    assert not out.exists()


def arrays(folder):
    images = np.arange(4 * 28 * 28).reshape(4, 28, 28, 1).astype(np.uint8)
    np.savez(folder / "data.npz", x_train=images, x_test=images)
    return folder / "data.npz"


def test_a_name_is_downloaded_once_and_without_network_it_is_one_line(published, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("GM_JAX_CACHE", str(tmp_path / "cache"))
    served = sources.Published(published.parent.as_uri(), (published.name,), "a licence", "EDM")
    monkeypatch.setitem(sources.NAMES, "mine/edm", served)
    fetched = sources.fetch("mine/edm")
    assert fetched == tmp_path / "cache/pretrained/mine/edm/edm.pkl"
    assert sha256(fetched) == sha256(published)
    monkeypatch.setitem(sources.NAMES, "mine/edm", served._replace(address="file:///nowhere"))
    assert sources.fetch("mine/edm") == fetched
    out = tmp_path / "out"
    assert program.main(["mine/edm", "--out", str(out), "--config.data.name=digits"]) == 0
    origin = workdirs.read(out).init_from["params"]
    assert (origin["source"], origin["licence"]) == ("file:///nowhere/edm.pkl", "a licence")
    fetched.unlink()
    capsys.readouterr()
    assert "cannot download file:///nowhere/edm.pkl" in refusal(capsys, "mine/edm", "--out", tmp_path / "other")
    assert not list((tmp_path / "cache/pretrained/mine/edm").iterdir())


@pytest.mark.parametrize("command", [c for c in COMMANDS.values() if c.program == "gm_jax.pretrained"], ids=str)
def test_a_documented_command_is_understood(command):
    flags, overrides = parse(program._parser(), command.args)
    program.check(flags, overrides)
    assert flags.source in sources.NAMES or flags.source.startswith(("/path/to/", "runs/"))
