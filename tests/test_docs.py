"""Every command and every piece of code in README.md, results/README.md and docs/ does what it should.

All commands are parsed by their program's own parser, their fields are checked and their models built: one whose flag or field
has another name now fails. The cheap ones are run, too, in an empty folder, by stand-ins: a run of the documented name, but of
two steps, of the preset `tiny` or, where that has a U-Net, which takes long to compile, `ring`. `obstacle` says by rule what is
not run: what needs hours, networks, GPUs or several hosts, and training whose work directory no other command or code needs.
Code is run likewise, unless it reads files that are the reader's.
"""

import ast
import contextlib
import importlib
import importlib.util
import inspect
import re
import shutil
import tomllib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gm_jax.cli import eval as cli_eval
from gm_jax.cli import flags as cli_flags
from gm_jax.cli.config import override
from gm_jax.data.sources import load_digits
from gm_jax.data.toys import TOYS
from gm_jax.defaults import plain
from gm_jax.errors import InputError
from gm_jax.evaluation.draw import balanced_labels
from gm_jax.evaluation.tasks import NEEDS, TASKS
from gm_jax.report import __main__ as report_program
from gm_jax.report import summary as summary_program
from gm_jax.settings import fields_of
from gm_jax.study import __main__ as study
from gm_jax.study import entries
from tests.documented import (
    BLOCK,
    COMMANDS,
    EVAL,
    MAKEFILE,
    PAGES,
    ROOT,
    RUNS,
    TRAIN,
    Command,
    blocks,
    model_of,
    obstacle_of_run,
    run_of,
    stand_in,
    train,
)

ANYBODYS = re.compile(r"^/|=/|:/path/|^photos|^samples/")  # in an argument: files that are the reader's
N = 16  # samples that a stand-in draws


# --- commands are understood --------------------------------------------------------------------------------------------------


def check_train(command: Command) -> None:
    model_of(run_of(command).config())


def check_eval(command: Command) -> None:
    parser = cli_eval._parser()
    flags, overrides = cli_flags.parse(parser, command.args)
    if flags.images or flags.reference:
        override(plain(), overrides, cli_eval.IMAGES_FIELDS)
        cli_eval._check_images_flags(parser, flags)
        return
    assert set(flags.tasks.split(",")) <= {*TASKS, "all", "help"}
    if flags.tasks == "help":
        return
    assert flags.workdir in RUNS, "no command of a page makes this work directory"
    config = override(RUNS[flags.workdir].config(), overrides, cli_eval.RUN_FIELDS)
    model = model_of(config)
    balanced_labels(model.num_classes, N, config["eval"]["labels"])
    known = {name for term in model.likelihoods for name in inspect.signature(term.fn).parameters} | {"given_labels", "names"}
    assert set(config["eval"]["likelihood"]) <= known


def check_study(command: Command) -> None:
    flags, overrides = cli_flags.parse(study._parser(), command.args)
    for entry in entries.find(flags.models, flags.preset):
        entries.resolve(entry, overrides)


def check_make(command: Command) -> None:
    for target in command.args:
        assert re.search(rf"^{target}:", MAKEFILE, re.MULTILINE), f"no target {target}"


def check_pip(command: Command) -> None:
    extras = re.findall(r"\[(.*)\]", str(command))
    assert set(extras) <= set(tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"])


def check_code(command: Command) -> None:
    check_imports(command.args[0])


def check_file(command: Command) -> None:
    assert (ROOT / command.program).is_file() or importlib.util.find_spec(command.program)


CHECKS = {
    **dict.fromkeys(TRAIN, check_train),
    **dict.fromkeys(EVAL, check_eval),
    "gm_jax.study": check_study,
    "make": check_make,
    "pip": check_pip,
    "-c": check_code,
    ".": lambda command: None,  # of the shell
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=str)
def test_a_command_is_understood(command, monkeypatch):
    monkeypatch.chdir(ROOT)
    CHECKS.get(command.program, check_file)(command)


# --- and run ------------------------------------------------------------------------------------------------------------------


def obstacle_of_eval(command: Command) -> str:
    flags, _ = cli_flags.parse(cli_eval._parser(), command.args)
    if flags.images:
        return "" if flags.reference.startswith("digits:") else "needs Inception weights, or data"
    if flags.tasks == "solvers":
        return "takes minutes"
    if flags.tasks == "help" or (why := obstacle_of_run(RUNS[flags.workdir])):
        return "" if flags.tasks == "help" else why
    preset, fields = stand_in(RUNS[flags.workdir])
    config = RUNS[flags.workdir].config(preset, **fields)
    has_not = {need for need in NEEDS if "images" in need} if config["data"]["name"] in TOYS else set()
    asked = {arg.split("=")[0].rpartition(".")[2] for arg in command.args if arg.startswith("--config.eval.likelihood.")}
    known = {option for term in model_of(config).likelihoods for option in fields_of(term.fn)} | {"given_labels", "names"}
    has_not |= {"likelihood"} if asked - known else set()
    lacking = [task for task in flags.tasks.split(",") if task in TASKS and has_not & set(TASKS[task].needs)]
    return f"its stand-in cannot do {', '.join(lacking)}" if lacking else ""


def needed(workdir: str) -> bool:
    """Does another command or a piece of code read the work directory?"""
    others = [str(command) for command in COMMANDS.values() if command.program not in TRAIN]
    return any(re.search(rf"{workdir}(?![\w-])", text) for text in [*others, *(text for _, text in blocks("python"))])


def obstacle(command: Command) -> str:
    """Why a command is parsed only; "" if it is run."""
    if "CUDA_VISIBLE_DEVICES" in command.env or any(map(ANYBODYS.search, [*command.args, *command.env.values()])):
        return "needs GPUs, or files of the reader's"
    if command.program in TRAIN:
        run = run_of(command)
        return obstacle_of_run(run) or ("" if needed(run.workdir) else "no other command needs it")
    if command.program in EVAL:
        return obstacle_of_eval(command)
    return "" if command.program in PROGRAMS else "takes minutes or the network, or has a test of its own"


def run_train(command: Command) -> None:
    train(run_of(command))


def run_eval(command: Command) -> None:
    """With a small n, an extractor that has learnt nothing, and one task for "all", which have tests of their own."""
    flags, _ = cli_flags.parse(cli_eval._parser(), command.args)
    args = [
        *command.args,
        *([] if flags.images else [f"--n={N}"]),
        *(["--tasks=samples"] if flags.workdir and flags.tasks == "all" else []),
    ]
    if flags.tasks != "help" and (flags.images or RUNS[flags.workdir].config()["data"]["name"] == "digits"):
        train(RUNS["runs/classifier-digits"])
        args += ["--config.eval.extractor=runs/classifier-digits"]
    if flags.images:
        np.savez(flags.images, images=load_digits().x_test[:N])
    elif flags.tasks != "help":
        train(RUNS[flags.workdir])
    assert cli_eval.eval_main(args) == 0


def run_report(command: Command) -> None:
    train(RUNS["runs/vae-digits"])
    assert report_program.main(command.args) == 0


def run_summary(command: Command) -> None:
    """Of a stand-in, or of copies of the pages."""
    for page in ("README.md", "docs/training.md"):
        Path(page).parent.mkdir(exist_ok=True)
        shutil.copy(ROOT / page, page)
    shutil.copytree(ROOT / "results", "results", dirs_exist_ok=True)
    train(RUNS["runs/vae-digits"])
    assert summary_program.main(command.args) == 0


PROGRAMS = {
    **dict.fromkeys(TRAIN, run_train),
    **dict.fromkeys(EVAL, run_eval),
    "gm_jax.report": run_report,
    "gm_jax.report.summary": run_summary,
}


def is_cheap(command: Command) -> bool:
    with contextlib.suppress(InputError, KeyError):  # again
        return not obstacle(command)
    return False


CHEAP = [command for command in COMMANDS.values() if is_cheap(command)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where all commands are run, one after the other, as a reader would; caches are there, too."""
    return tmp_path_factory.mktemp("reader")


@pytest.fixture
def reader(folder, monkeypatch):
    monkeypatch.chdir(folder)
    monkeypatch.setenv("GM_JAX_CACHE", str(folder / "cache"))


@pytest.mark.parametrize("command", CHEAP, ids=str)
def test_a_cheap_command_is_run(command, reader):
    PROGRAMS[command.program](command)


def test_every_program_and_every_page_with_commands_has_one_that_is_run():
    assert {command.program for command in CHEAP} == {command.program for command in COMMANDS.values()} & PROGRAMS.keys()
    told = {command.page for command in COMMANDS.values() if command.program in TRAIN + EVAL}
    assert told - {command.page for command in CHEAP} <= {"docs/devices.md"}


# --- code ---------------------------------------------------------------------------------------------------------------------

STAND_INS = {  # what the code calls the reader's own
    "my_network": lambda x_t, t: 0 * x_t,
    "my_denoiser": lambda x_t, t: jnp.full_like(x_t, 0.5),
    "my_function": lambda images: images.reshape(len(images), -1)[:, ::16] / 255,
    "sha256_of_its_weights": "",
    "x0": jnp.ones((2, 32, 32, 3)),
    "eps": jnp.zeros((2, 32, 32, 3)),
    "t": jnp.array([1, 500]),
    "keys": jax.random.split(jax.random.key(0), 1),
    "samples": load_digits().x_test[:40],
    "real": load_digits().x_train[:50],
}
PYTHON = [pytest.param(text, id=f"{page}: {text.splitlines()[0]}") for page, text in blocks("python")]


def check_imports(code: str) -> None:
    """All that is imported, and every attribute of an imported module, is there."""
    modules = {}
    tree = ast.parse(code)
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            owner = importlib.import_module(node.module)
            for alias in node.names:
                value = getattr(owner, alias.name, None) or importlib.import_module(f"{node.module}.{alias.name}")
                modules[alias.asname or alias.name] = value
        elif isinstance(node, ast.Import):
            modules |= {alias.asname or alias.name: importlib.import_module(alias.name) for alias in node.names}
    for node in ast.walk(tree):
        owner = modules.get(node.value.id) if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) else None
        if inspect.ismodule(owner):
            assert hasattr(owner, node.attr), f"{owner.__name__} has no {node.attr}"


@pytest.mark.parametrize("code", PYTHON)
def test_what_the_code_imports_exists(code):
    check_imports(code)


@pytest.mark.parametrize("code", [param for param in PYTHON if "import " in param.values[0]])
def test_code_runs(code, reader):
    texts = [node.value for node in ast.walk(ast.parse(code)) if isinstance(node, ast.Constant) and isinstance(node.value, str)]
    if any(text.endswith(("/", ".npz")) for text in texts):
        return  # reads files of the reader's
    for workdir in RUNS.keys() & set(texts):
        train(RUNS[workdir])
    names = dict(STAND_INS)
    exec(compile(code, "docs", "exec"), names)
    if "p_losses" in code:
        assert names["loss"] == 0
        np.testing.assert_allclose(names["images"], 0.5, atol=1e-5)


# --- words --------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_and_names_lead_somewhere(page):
    text = page.read_text()
    links = [link for link in re.findall(r"\]\(([^)#]+)", text) if "://" not in link]
    assert [link for link in links if not (page.parent / link).exists()] == []
    code = " ".join(BLOCK.sub("", text).split("`")[1::2])
    files = re.findall(r"\b(?:gm_jax|configs|tests|examples|benchmarks)/[\w/]+\.py\b", code)
    assert [file for file in files if not (ROOT / file).is_file() and "NAME" not in file] == []
    sources = "".join(path.read_text() for part in ("gm_jax", "tests") for path in (ROOT / part).rglob("*.py"))
    assert [name for name in re.findall(r"GM_JAX_\w+", text) if name not in sources] == []


def test_modules_that_are_named_exist():
    names = {name for page in PAGES for name in re.findall(r"`(gm_jax(?:\.\w+)+)", page.read_text())}
    for name in sorted(names):
        parts = name.split(".")
        depth = next(i for i in range(len(parts), 0, -1) if is_module(".".join(parts[:i])))
        value = importlib.import_module(".".join(parts[:depth]))
        for part in parts[depth:]:
            value = getattr(value, part)


def is_module(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False
