"""Bad input gives one line that helps, exit code 2 and an untouched disk; good input arrives with its types."""

import json
import pathlib
import subprocess
import sys
import types

import numpy as np
import pytest

import gm_jax.evaluation
import gm_jax.training
from gm_jax import cli
from gm_jax.build import resolve
from gm_jax.cli.presets import base
from gm_jax.data.dataset import Dataset
from gm_jax.data.digest import content_digest
from gm_jax.errors import InputError
from gm_jax.training import workdirs

ROOT = pathlib.Path(__file__).parents[1]
CONFIG = """
from gm_jax.cli.presets import base, with_preset

def get_config(preset="cifar10"):
    return with_preset(base(name="tests.toys.toy_settings"), preset, PRESETS)

def cifar10(config):
    config.data.name = "cifar10"

def digits(config):
    config.data.name = "digits"

PRESETS = {"cifar10": cifar10, "digits": digits, "tiny": cifar10}
"""


DATA = Dataset("toy", *[np.arange(128, dtype=np.uint8).reshape(2, 8, 8, 1), np.arange(2, dtype=np.int32)] * 2, ("a", "b"))
DIGEST = content_digest(DATA)


BASE = "from gm_jax.cli.presets import base\ndef get_config():\n    c = base()\n"


class NonFinite(RuntimeError):
    pass


class Interrupted(RuntimeError):
    code = 143


@pytest.fixture
def train(tmp_path, monkeypatch):
    """Calls train_main in an empty directory with a toy config; `train.calls` is what reached the training loop."""
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs/toy.py").write_text(CONFIG)
    monkeypatch.chdir(tmp_path)
    calls = []
    loop = types.SimpleNamespace(NonFinite=NonFinite, Interrupted=Interrupted)
    experiment = types.SimpleNamespace(train=lambda *args: calls.append(args))
    for package, name, module in ((gm_jax.training, "loop", loop), (gm_jax, "experiment", experiment)):
        monkeypatch.setitem(sys.modules, f"{package.__name__}.{name}", module)
        monkeypatch.setattr(package, name, module, raising=False)

    def run(*args):
        return cli.train_main(["--config=configs/toy.py", *args])

    run.calls, run.experiment = calls, experiment
    return run


def error_line(capsys) -> str:
    """The one line on stderr, which is all that was printed."""
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and err.endswith("\n")
    return err


def files(directory: pathlib.Path) -> set[str]:
    return {str(path.relative_to(directory)) for path in directory.rglob("*") if "__pycache__" not in path.parts}


@pytest.mark.parametrize(
    ("flag", "words"),
    [
        ("--config.train.stesp=3", ["'train.stesp'", "'train.steps'"]),
        ("--config.learning_rate=3", ["'learning_rate'", "'optimizer.learning_rate'"]),
        ("--config.optimiser.clip_norm=3", ["'optimizer.clip_norm'"]),
        ("--config.seed.x=3", ["'seed.x'", "nearest"]),
        ("--config.train=3", ["config.train is a section", "--config.train."]),
        ("--config.eval.sample=3", ["config.eval.sample is a section", "--config.eval.sample.steps=VALUE"]),
        ("--config.eval.sample.=3", ["'eval.sample.'"]),
        ("--config.eval.likelihood=3", ["config.eval.likelihood is a section", "--config.eval.likelihood.full=VALUE"]),
        ("--config.train.steps=abc", ["config.train.steps=abc", "whole number"]),
        ("--config.train.steps=1.5", ["config.train.steps=1.5", "whole number"]),
        ("--config.train.steps=true", ["config.train.steps=true", "whole number"]),
        ("--config.train.steps=", ["config.train.steps=", "whole number"]),
        ("--config.optimizer.eps=small", ["config.optimizer.eps=small", "a number above 0"]),
        ("--config.data.flip=1", ["config.data.flip=1", "true or false"]),
        ("--config.model.multipliers=1,x", ["multipliers", "a list", "a whole number"]),
        ("--config.model.width=wide", ["width=wide", "a whole number or none"]),
        ("--config.model.widht=1", ["model.widht", "'width'"]),
        ("--config.eval.labels=x", ["eval.labels=x", "a whole number of at least 0"]),
        ("--config.seed=-3", ["seed=-3", "from 0 to 4294967295"]),
        ("--config.model.multipliers=(1,2.5)", ["multipliers", "a list"]),
        ("--config.train.steps", ["has no value", "--config.train.steps=VALUE"]),
        ("--wrokdir=x", ["--wrokdir", "--workdir"]),
        ("--work=x", ["--work", "--workdir"]),
        ("--num-processes=2", ["--num-processes", "--num_processes"]),
        ("digits", ["unexpected", "'digits'"]),
        ("--config=configs/tyo.py", ["configs/tyo.py", "configs/toy.py"]),
        ("--config=elsewhere/toy.py", ["elsewhere/toy.py", "does not exist"]),
        ("--config=configs/toy.py:digit", ["'digit'", "'digits'", "cifar10, digits, tiny"]),
        ("--config=configs", ["configs", "does not exist"]),
        ("--num_processes=2", ["--coordinator=HOST:PORT"]),
        ("--num_processes=0", ["'0'", "1 or more"]),
    ],
)
def test_bad_input_is_one_helpful_line(train, flag, words, capsys, tmp_path):
    before = files(tmp_path)
    assert train(flag) == 2
    line = error_line(capsys)
    assert [word for word in words if word not in line] == []
    assert train.calls == [] and files(tmp_path) == before


@pytest.mark.parametrize(
    ("process", "words"),
    [(("host:1", "2", "2"), ["0 to 1"]), (("host", "2", "0"), ["HOST:PORT"]), (("host:1", "2", "-1"), ["'-1'"])],
)
def test_bad_addresses_of_hosts(train, process, words, capsys):
    coordinator, number, index = process
    assert train(f"--coordinator={coordinator}", f"--num_processes={number}", f"--process_id={index}") == 2
    assert all(word in error_line(capsys) for word in words)


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("def get_config(preset=''):\n    return 1 +", ["line 2", "SyntaxError"]),
        ("import nonsense_package\n", ["line 1", "nonsense_package"]),
        ("def get_config():\n\n    return {}['depth']\n", ["line 3", "KeyError"]),
        ("def get_config():\n    return {}\n", ["dict", "ConfigDict"]),
        ("x = 1\n", ["get_config"]),
        (f"{BASE}    c.train.stesp = 3\n", ["line 4", "stesp"]),
        (f"{BASE}    c.train.steps = 'x'\n", ["line 4", "steps"]),
    ],
)
def test_an_error_inside_the_config_file_names_its_line(train, source, words, capsys, tmp_path):
    (tmp_path / "configs/toy.py").write_text(source)
    assert train() == 2
    line = error_line(capsys)
    assert [word for word in ["configs/toy.py", *words] if word not in line] == []
    assert train.calls == []


def test_no_config_is_an_error(train, capsys):
    assert cli.train_main([]) == 2
    assert "--config" in error_line(capsys)


def test_values_take_the_type_of_their_field(train):
    assert train("--config.train.steps=20_000", "--config.optimizer.weight_decay", "1", "--config.data.name", "folder:/a=b",
                 "--config.data.flip=True", "--config.model.multipliers=1,2,4", "--config.model.scales=[1,2.5]",
                 "--config.model.width=7", "--config.eval.sample.steps=50", "--config.eval.sample.sampler=ddim",
                 "--config.seed=3", "--config.train.init_from=12", "--config.eval.labels=7",
                 "--config.optimizer.critic.eps=1e-3", "--config.eval.likelihood.full=no") == 0  # fmt: skip
    [(config, workdir)] = train.calls
    assert type(config) is dict and type(config["train"]) is dict
    assert workdir == pathlib.Path("runs/toy-cifar10")
    assert config["train"]["steps"] == 20_000 and type(config["optimizer"]["weight_decay"]) is float
    assert config["data"]["name"] == "folder:/a=b" and config["data"]["flip"] is True
    wanted = {"name": "tests.toys.toy_settings", "multipliers": (1, 2, 4), "scales": (1.0, 2.5), "width": 7}
    assert config["model"] == wanted and config["eval"]["labels"] == (7,) and config["optimizer"]["critic"] == {"eps": 1e-3}
    assert config["eval"]["sample"] == {"steps": 50, "sampler": "ddim"}
    assert config["seed"] == 3 and config["train"]["init_from"] == "12"


def test_shipped_configs_are_found_by_name(train, capsys):
    assert cli.train_main(["--config", "vae:digits", "--config.train.steps=7"]) == 0
    [(config, workdir)] = train.calls
    assert config["model"]["name"] == "vae" and config["train"]["steps"] == 7 and workdir == pathlib.Path("runs/vae-digits")
    assert cli.train_main(["--config", "vee:digits"]) == 2
    assert "no config 'vee' is shipped; the nearest one is 'vae'" in error_line(capsys)


def test_a_tilde_in_the_work_directory_is_the_home_folder(train, monkeypatch):
    monkeypatch.setenv("HOME", "/nowhere")
    assert train("--workdir=~/run") == 0
    assert train.calls[0][1] == pathlib.Path("/nowhere/run")


def test_preset_reaches_the_config_and_names_the_default_work_directory(train):
    assert train("--config", "configs/toy.py:digits") == 0
    assert train("--config=configs/toy.py:tiny", "--workdir", "elsewhere") == 0
    (first, workdir), (_, other) = train.calls
    assert first["data"]["name"] == "digits"
    assert (workdir, other) == (pathlib.Path("runs/toy-digits"), pathlib.Path("elsewhere"))


@pytest.mark.parametrize(
    ("raised", "code"),
    [
        (InputError("two\nlines; do this"), 2),
        (NonFinite("step 7"), 1),
        (Interrupted("saved"), 143),
        (KeyboardInterrupt(), 130),
        (OSError(28, "No space left on device", "runs/x"), 2),
    ],
)
def test_exit_code_tells_how_the_run_ended(train, raised, code, capsys):
    def stop(config, workdir):
        raise raised

    train.experiment.train = stop
    assert train() == code
    error_line(capsys)


def test_a_bug_keeps_its_traceback(train):
    def bug(config, workdir):
        raise TypeError("a bug")

    train.experiment.train = bug
    with pytest.raises(TypeError, match="a bug"):
        train()


@pytest.fixture
def run_dir(tmp_path, monkeypatch):
    """A work directory, with the modules that evaluate it replaced by ones that record the context."""
    config = {"data": {"name": "digits", "dir": ""}, "train": {"steps": 5}, "model": {"name": "toy"}}
    config["eval"] = {"n": 0, "batch_size": 8, "sample": {"steps": 10}, "likelihood": {}}  # trained before eval.extractor was
    workdirs.write(tmp_path, workdirs.Record(config, (8, 8, 1), 2, ("a", "b"), 2, DIGEST, 100, {}, "cpu", {}))
    contexts, loaded = [], []

    def evaluate(names, context):
        contexts.append((list(names), context))
        metrics = {
            "loss": {"value": 2.5, "n": 3, "stderr": 0.25, "weights": "raw", "step": 5},
            "kid_floor": {"value": 1.5, "n": 4, "std": 0.5, "weights": None, "step": None},
        }
        return {"metrics": metrics, "pictures": {"samples.png": {}}, "skipped": {}}

    tasks = types.SimpleNamespace(Context=types.SimpleNamespace, help_text=lambda: "samples  a grid", evaluate=evaluate)

    def restore(workdir, weights):
        return types.SimpleNamespace(model="model", variables="variables", step=5, weights=weights)

    def load_dataset(config):
        loaded.append(config["data"])
        return DATA

    def recalibrated(model, variables, data, labels):
        return f"{variables} fit to {len(data)} and {len(labels)}"

    build = types.SimpleNamespace(load_dataset=load_dataset)
    restoring = types.SimpleNamespace(restore=restore, recalibrated=recalibrated)
    replaced = ((gm_jax.evaluation, "tasks", tasks), (gm_jax, "build", build), (gm_jax.training, "restore", restoring))
    for package, name, module in replaced:
        monkeypatch.setitem(sys.modules, f"{package.__name__}.{name}", module)
        monkeypatch.setattr(package, name, module, raising=False)
    return types.SimpleNamespace(path=tmp_path, contexts=contexts, loaded=loaded)


def test_eval_passes_flags_and_overrides(run_dir, capsys):
    flags = ["--workdir", str(run_dir.path), "--tasks=samples,denoising", "--n=3", "--weights=raw", "--seed=4"]
    overrides = ["--config.eval.sample.steps=20", "--config.eval.likelihood.full=true", "--config.data.dir=/d"]
    assert cli.eval_main([*flags, *overrides, "--config.eval.batch_size", "2"]) == 0
    [(names, context)] = run_dir.contexts
    assert names == ["samples", "denoising"] and run_dir.loaded[0]["dir"] == "/d"
    assert context.options == {"steps": 20} and context.likelihood_options == {"full": True}
    assert context.variables == "variables fit to 2 and 2"
    assert (context.n, context.batch_size, context.weights, context.seed, context.step) == (3, 2, "raw", 4, 5)
    out = capsys.readouterr().out
    assert "loss: 2.5 +- 0.25 (n=3, raw weights of step 5)" in out and f"{run_dir.path}/samples.png\n" in out
    assert "kid_floor: 1.5 +- 0.5 (n=4, real images)" in out


def test_eval_defaults_come_from_the_config(run_dir):
    assert cli.eval_main([f"--workdir={run_dir.path}"]) == 0
    [(names, context)] = run_dir.contexts
    assert names == ["all"]
    assert (context.n, context.batch_size, context.weights, context.out) == (None, 8, "ema", run_dir.path)


def test_fields_that_a_run_was_trained_without_have_their_defaults(run_dir):
    assert cli.eval_main([f"--workdir={run_dir.path}", "--config.eval.reference=test", "--config.eval.sets=3"]) == 0
    [(_, context)] = run_dir.contexts
    judging = {"extractor": "auto", "inception": "", "reference": "test", "sets": 3}
    assert judging.items() <= context.judging.items()
    assert context.judging["batch_size"] == 8 and context.options == {"steps": 10}  # the run's own remain
    assert context.labels == ()


def test_a_run_of_another_format_is_refused_with_the_version_that_made_it(run_dir, capsys):
    content = json.loads((run_dir.path / "config.json").read_text())
    old = {key: value for key, value in content.items() if key != "format"} | {"versions": {"gm_jax": "0.0.7"}}
    (run_dir.path / "config.json").write_text(json.dumps(old))
    assert cli.eval_main([f"--workdir={run_dir.path}"]) == 2
    assert "was made with gm_jax 0.0.7, in format 1 (this one's is 2)" in error_line(capsys)


def test_a_run_from_before_those_fields_is_resumed(tmp_path):
    config = base(name="vae").to_dict()
    old = {**config, "eval": {"n": 0}, "optimizer": {k: v for k, v in config["optimizer"].items() if k != "clip_norm"}}
    record = workdirs.Record(old, (8, 8, 1), 2, ("a", "b"), 2, DIGEST, 100, {}, "cpu", {})
    workdirs.write(tmp_path, record)
    now = record._replace(config=resolve(config))
    assert workdirs.check(tmp_path, now, resolve)
    with pytest.raises(InputError, match="holds another run"):
        workdirs.check(tmp_path, now)


def test_data_that_have_moved_are_named_anew_and_held_to_their_content(run_dir, monkeypatch, capsys):
    assert cli.eval_main([f"--workdir={run_dir.path}", "--config.data.name=folder:/elsewhere"]) == 0
    assert run_dir.loaded[0]["name"] == "folder:/elsewhere"
    capsys.readouterr()
    monkeypatch.setattr(sys.modules[__name__], "DATA", DATA._replace(x_test=DATA.x_test[::-1]))
    assert cli.eval_main([f"--workdir={run_dir.path}"]) == 2
    assert "was trained on other data of the same size" in error_line(capsys)
    monkeypatch.setattr(sys.modules[__name__], "DATA", DATA._replace(class_names=("b", "a")))
    assert cli.eval_main([f"--workdir={run_dir.path}"]) == 2
    assert "trained with the classes a, b, the data now has b, a" in error_line(capsys)
    assert len(run_dir.contexts) == 1


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--tasks=samples", "--workdir=."], ["config.json", "--workdir"]),
        (["--tasks=samples"], ["--workdir"]),
        ([], ["--workdir", "--images", "--reference"]),
        (["--workdir=RUN", "--tasks=samples", "--weights=best"], ["'best'", "ema", "raw"]),
        (["--workdir=RUN", "--tasks=samples", "--n=0"], ["'0'", "1 or more"]),
        (["--workdir=RUN", "--tasks=samples", "--seed=4294967296"], ["'4294967296'", "from 0 to 4294967295"]),
        (["--workdir=RUN", "--tasks=samples", "--task=x"], ["--task", "--tasks"]),
        (["--workdir=RUN", "--tasks=samples", "--config.train.steps=3"], ["config.train.steps", "config.eval.*"]),
        (["--workdir=RUN", "--tasks=samples", "--config.eval.batchsize=3"], ["'eval.batch_size'"]),
        (["--workdir=RUN", "--tasks=samples", "--config.eval.sample.=many"], ["'eval.sample.'"]),
    ],
)
def test_bad_input_to_eval(run_dir, flags, words, capsys, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))
    assert cli.eval_main([flag.replace("RUN", str(run_dir.path)) for flag in flags]) == 2
    line = error_line(capsys)
    assert [word for word in words if word not in line] == []
    assert run_dir.contexts == [] and files(run_dir.path) == {"config.json"}


def test_damaged_config_of_a_run(run_dir, capsys):
    (run_dir.path / "config.json").write_text('{"data": ')
    assert cli.eval_main([f"--workdir={run_dir.path}", "--tasks=samples"]) == 2
    assert "config.json is damaged" in error_line(capsys)


def test_task_list_needs_no_run(run_dir, capsys):
    assert cli.eval_main(["--tasks=help"]) == 0
    assert capsys.readouterr().out == "samples  a grid\n"


def test_help_and_mistakes_do_not_wait_for_jax():
    mistake = "cli.train_main(['--config=configs/nonsense.py'])"
    code = f"import sys; from gm_jax import cli; assert {mistake} == 2; assert 'jax' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)


@pytest.mark.parametrize(("script", "words"), [("train.py", ["--config", "--workdir"]), ("eval.py", ["--tasks", "--weights"])])
def test_scripts_run_from_anywhere(script, words, tmp_path):
    done = subprocess.run([sys.executable, ROOT / script, "--help"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0 and all(word in done.stdout for word in words)
    done = subprocess.run([sys.executable, ROOT / script, "--nonsense"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: unknown flag --nonsense")
