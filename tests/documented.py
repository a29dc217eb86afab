"""The commands and code of README.md, results/README.md and docs/, and the small runs that stand in for those they speak of."""

import contextlib
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from gm_jax import build
from gm_jax.cli import flags as cli_flags
from gm_jax.cli import train as cli_train
from gm_jax.cli.config import DEFAULT_PRESET, find_config, load_config, override
from gm_jax.core import Model
from gm_jax.data.toys import TOYS
from gm_jax.errors import InputError
from gm_jax.settings import fields_of, section_of
from gm_jax.training.optimizers import build_optimizers

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "results/README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.DOTALL | re.MULTILINE)
PYTHON = ("python", "python3", "-m")
TRAIN, EVAL = ("train.py", "gm_jax.train"), ("eval.py", "gm_jax.eval")
SHAPES = {"digits": ((8, 8, 1), 10), "mnist": ((28, 28, 1), 10), "cifar10": ((32, 32, 3), 10)}
SMALL = {"train.steps": 2, "train.batch_size": 8, "train.log_every": 1, "train.sample_every": 0, "train.heldout_every": 0}


class Command(NamedTuple):
    page: str
    env: dict[str, str]
    argv: tuple[str, ...]

    def __str__(self) -> str:
        return shlex.join(self.argv)

    @property
    def program(self) -> str:
        """ "train.py", "gm_jax.report", "make" ..."""
        return next(word for word in self.argv if word not in PYTHON)

    @property
    def args(self) -> list[str]:
        return list(self.argv[self.argv.index(self.program) + 1 :])


def commands(text: str, page: str) -> Iterator[Command]:
    """The commands of a shell script: its lines, without comments."""
    for line in text.replace("\\\n", " ").splitlines():
        for part in line.split(" && "):
            words = shlex.split(part, comments=True)
            env = dict(word.split("=", 1) for word in words if re.match(r"[A-Z_]+=", word))
            if argv := tuple(word for word in words if not re.match(r"[A-Z_]+=", word)):
                yield Command(page, env, argv)


def blocks(language: str) -> list[tuple[str, str]]:
    """(page, content) of the blocks of code in a language; each content once."""
    found = {content: path for path in PAGES for kind, content in BLOCK.findall(path.read_text()) if kind == language}
    return [(str(path.relative_to(ROOT)), content) for content, path in found.items()]


MAKEFILE = (ROOT / "Makefile").read_text()
DEMO = re.findall(r"^\t\$\(BIN\)/(python (?:train|eval)\.py .*)", MAKEFILE, re.MULTILINE)
SCRIPTS = [("Makefile", "\n".join(DEMO)), *blocks("sh")]
COMMANDS = {str(command): command for page, text in SCRIPTS for command in commands(text, page)}


# --- runs ---------------------------------------------------------------------------------------------------------------------


class Run(NamedTuple):
    """What a command line of train.py asks for."""

    file: Path
    preset: str
    workdir: str
    overrides: dict[str, str]
    alone: bool  # one host

    def config(self, preset: str | None = None, **overrides: str) -> dict:
        return build.resolve(override(load_config(self.file, preset or self.preset), self.overrides | overrides))


def run_of(command: Command) -> Run:
    flags, overrides = cli_flags.parse(cli_train._parser(), command.args)
    name, _, preset = flags.config.partition(":")
    file, preset = ROOT / find_config(name), preset or DEFAULT_PRESET
    alone = not flags.distributed and cli_train._hosts(flags) is None
    return Run(file, preset, flags.workdir or f"runs/{file.stem}-{preset}", overrides, alone)


RUNS: dict[str, Run] = {}  # work directory -> the run that a command makes there
for _command in COMMANDS.values():
    if _command.program in TRAIN:
        with contextlib.suppress(InputError):  # one that is not understood has a test that fails
            RUNS.setdefault((_run := run_of(_command)).workdir, _run)


def shape_of(config: dict) -> tuple[tuple[int, ...], int | None]:
    name = config["data"]["name"]
    if name in TOYS:
        return (2,), len(TOYS[name].class_names or ()) or None
    return SHAPES.get(name, ((32, 32, 3), None))


def model_of(config: dict) -> Model:
    """The model, with its optimizers and sampling options checked."""
    model = build.build_model(config, *shape_of(config))
    build_optimizers(config, model)
    if model.nfe is not None:
        model.nfe(**config["eval"]["sample"])
    return model


def small_preset(run: Run) -> str:
    """`ring`, for points, for labels, and where a denoiser's network would see images; else `tiny`."""
    config = run.config()
    kinds = [section_of(field.hint) for field in fields_of(build.find_make(config["model"]["name"])).values()]
    if not (config["data"]["name"] in TOYS or config["model"].get("class_conditional") or "network" in kinds):
        return "tiny"
    return "ring"


def stand_in(run: Run) -> tuple[str, dict[str, str]]:
    """(preset, fields) of the run that is made in the place of a documented one."""
    model = run.config()["model"]
    told = {f"model.{name}": str(model[name]) for name in ("class_conditional", "label_dropout") if model.get(name)}
    return small_preset(run), run.overrides | told | {key: str(value) for key, value in SMALL.items()}


def obstacle_of_run(run: Run) -> str:
    """Why a run has no stand-in; "" if it has one."""
    if not run.alone or run.config()["parallel"] != "jit":
        return "several hosts or devices"
    if run.preset == "cifar10":
        return "takes hours, and the data"
    preset, fields = stand_in(run)
    try:
        model_of(run.config(preset, **fields))
    except InputError as error:
        return f"its stand-in differs: {error}"
    return ""


def train(run: Run) -> None:
    """Makes the stand-in of a run, once, and before it those of the runs that it begins from."""
    for source in re.findall(r"=([^=,:]+):", run.overrides.get("train.init_from", "")):
        train(RUNS[source])
    preset, fields = stand_in(run)
    if not Path(run.workdir, "config.json").is_file():
        flags = [f"--config={run.file}:{preset}", f"--workdir={run.workdir}"]
        assert cli_train.train_main([*flags, *(f"--config.{key}={value}" for key, value in fields.items())]) == 0
