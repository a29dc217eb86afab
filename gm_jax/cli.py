"""The command line: flags, config files, one-line errors and exit codes. Everything else receives plain values.

Exit codes: 0 done; 1 the run diverged; 2 bad input; 130 Ctrl-C; 143 SIGTERM after saving.
JAX is imported only when all flags are known to be good, so that `--help` and mistakes answer at once.
"""

import argparse
import ast
import contextlib
import difflib
import errno
import functools
import importlib.util
import json
import os
import pathlib
import sys
import textwrap
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from gm_jax.errors import InputError

DEFAULT_PRESET = "cifar10"
OPEN_SECTIONS = {"eval.sample": "steps", "eval.likelihood": "full"}  # with a key of each; whoever uses them checks them
EVAL_FIELDS = ("eval.", "data.dir")  # what eval.py may override: the rest belongs to the trained model

TRAIN_USAGE = "python train.py --config FILE[:PRESET] [--workdir DIR] [--config.FIELD=VALUE ...]"
TRAIN_EPILOG = """\
examples:
  python train.py --config configs/ddpm.py:digits
  python train.py --config configs/ddpm.py --config.data.dir=/path/to/cifar10
  python train.py --config configs/vae.py:digits --workdir runs/long --config.train.steps=20_000

Every field of the config file can be overridden; configs/common.py explains those that all experiments share.
The same command again resumes where the run stopped."""
EVAL_USAGE = "python eval.py --workdir DIR --tasks=NAME[,NAME...] [--config.eval.FIELD=VALUE ...]"
EVAL_EPILOG = """\
examples:
  python eval.py --tasks=help
  python eval.py --workdir runs/demo --tasks=samples --n=100
  python eval.py --workdir runs/demo --tasks=likelihood --config.eval.likelihood.full=true
  python eval.py --workdir runs/demo --tasks=samples,denoising --config.eval.sample.steps=50 --out=runs/demo/50-steps

The config is the one that the run was trained with; config.eval.* and config.data.dir can be overridden."""


def train_main(argv: Sequence[str] | None = None) -> int:
    """Runs `train.py` on `argv` (default: the process's own arguments) and returns the exit code."""
    return _run(_train, sys.argv[1:] if argv is None else argv)


def eval_main(argv: Sequence[str] | None = None) -> int:
    """Runs `eval.py` on `argv` (default: the process's own arguments) and returns the exit code."""
    return _run(_eval, sys.argv[1:] if argv is None else argv)


def _train(argv: Sequence[str]) -> int:
    flags, overrides = _parse(_train_parser(), argv)
    if not flags.config:
        raise InputError("--config is missing; for instance --config configs/ddpm.py:digits")
    hosts = _hosts(flags)
    file, _, preset = flags.config.partition(":")
    config = load_config(pathlib.Path(file), preset)
    override(config, overrides)
    workdir = pathlib.Path(flags.workdir or f"runs/{pathlib.Path(file).stem}-{preset or DEFAULT_PRESET}")

    _use_compilation_cache()
    if hosts or flags.distributed:
        _connect(hosts)
    from gm_jax.training import loop

    try:
        loop.train(config.to_dict(), workdir)
    except loop.NonFinite as error:
        return _fail(error, 1)
    except loop.Interrupted as error:
        return _fail(error, error.code)
    return 0


def _eval(argv: Sequence[str]) -> int:
    flags, overrides = _parse(_eval_parser(), argv)
    if not flags.tasks:
        raise InputError("--tasks is missing; --tasks=help lists them")
    if flags.tasks == "help":
        from gm_jax.evaluation import tasks

        print(tasks.help_text())
        return 0
    if not flags.workdir:
        raise InputError("--workdir is missing; name the directory that train.py wrote")
    workdir = pathlib.Path(flags.workdir)
    config = read_config(workdir)
    override(config, overrides, allowed=EVAL_FIELDS)
    _use_compilation_cache()
    _evaluate(config, workdir, flags)
    return 0


def _evaluate(config: ConfigDict, workdir: pathlib.Path, flags: argparse.Namespace) -> None:
    from gm_jax import experiment
    from gm_jax.evaluation import tasks

    restored = experiment.restore(workdir, flags.weights)
    dataset = experiment.load_dataset(config.to_dict())
    with _progress_bar() as progress:
        context = tasks.Context(
            model=restored.model,
            variables=experiment.recalibrated(restored.model, restored.variables, dataset.x_train),
            dataset=dataset,
            out=pathlib.Path(flags.out or workdir),
            n=flags.n or config.eval.n or None,
            seed=flags.seed,
            batch_size=flags.batch_size or config.eval.batch_size,
            weights=restored.weights,
            step=restored.step,
            options=config.eval.sample.to_dict(),
            likelihood_options=config.eval.likelihood.to_dict(),
            progress=progress,
            model_name=config.model.name,
        )
        written = tasks.run(flags.tasks.split(","), context)
    for name, entry in written["metrics"].items():
        error = f" +- {entry['stderr']:.2g}" if "stderr" in entry else ""
        print(
            f"{name}: {float(entry['value']):.5g}{error} (n={entry['n']}, {restored.weights} weights of step {restored.step})"
        )
    for name, reason in written["skipped"].items():
        print(f"skipped {name}: {reason}")
    for file in [*written["pictures"], "results.json"]:
        print(context.out.absolute() / file)


# ---- Flags


class _Parser(argparse.ArgumentParser):
    def error(self, message: str):
        raise InputError(f"{message}; python {self.prog} --help lists the flags")


def _parser(prog: str, usage: str, epilog: str) -> _Parser:
    style = argparse.RawDescriptionHelpFormatter
    return _Parser(prog=prog, usage=usage, epilog=epilog, formatter_class=style, allow_abbrev=False)


def _train_parser() -> _Parser:
    parser = _parser("train.py", TRAIN_USAGE, TRAIN_EPILOG)
    parser.add_argument("--config", metavar="FILE[:PRESET]", help=f"default preset: {DEFAULT_PRESET}")
    parser.add_argument("--workdir", metavar="DIR", help="where the run is kept; default: runs/NAME-PRESET")
    hosts = parser.add_argument_group("several hosts (the same command on each)")
    hosts.add_argument("--distributed", action="store_true", help="find the other hosts by the cluster's own means, or:")
    hosts.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    hosts.add_argument("--num_processes", type=_whole(1), metavar="N")
    hosts.add_argument("--process_id", type=_whole(0), metavar="I", help="0 to N-1")
    return parser


def _eval_parser() -> _Parser:
    parser = _parser("eval.py", EVAL_USAGE, EVAL_EPILOG)
    parser.add_argument("--workdir", metavar="DIR", help="the run to evaluate")
    parser.add_argument("--tasks", metavar="NAMES", help="separated by commas; help lists them")
    parser.add_argument("--n", type=_whole(1), help="how many images; default: config.eval.n, or each task's own")
    parser.add_argument("--out", metavar="DIR", help="where pictures and results.json go; default: the work directory")
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="default: ema")
    parser.add_argument("--seed", type=_whole(0), default=0, help="of the samples; default: 0")
    parser.add_argument("--batch_size", type=_whole(1), help="alters speed and memory only; default: config.eval.batch_size")
    return parser


def _whole(least: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isdecimal() or int(text) < least:
            raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of {least} or more")
        return int(text)

    return parse


def _parse(parser: _Parser, argv: Sequence[str]) -> tuple[argparse.Namespace, dict[str, str]]:
    """The known flags, and those of the form `--config.a.b` as {"a.b": text}."""
    rest, overrides = _split_overrides(argv)
    flags, unknown = parser.parse_known_args(rest)
    if unknown:
        name = unknown[0].partition("=")[0]
        if not name.startswith("-"):
            raise InputError(f"unexpected argument {name!r}; python {parser.prog} --help lists the flags")
        nearest = _nearest(name, [f"--{flag}" for flag in vars(flags)])
        raise InputError(f"unknown flag {name}; the nearest known one is {nearest}")
    return flags, overrides


def _split_overrides(argv: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    rest, overrides, words = [], {}, iter(argv)
    for word in words:
        if not word.startswith("--config."):
            rest.append(word)
            continue
        key, equals, value = word.removeprefix("--config.").partition("=")
        value = value if equals else next(words, "--")
        if not equals and value.startswith("--"):
            raise InputError(f"--config.{key} has no value; write --config.{key}=VALUE")
        overrides[key] = value
    return rest, overrides


def _hosts(flags: argparse.Namespace) -> tuple[str, int, int] | None:
    coordinator, num_processes, process_id = flags.coordinator, flags.num_processes, flags.process_id
    if coordinator is None and num_processes is None and process_id is None:
        return None
    if coordinator is None or num_processes is None or process_id is None:
        raise InputError("several hosts need all of --coordinator=HOST:PORT, --num_processes=N and --process_id=I")
    if not coordinator.rpartition(":")[2].isdecimal():
        raise InputError(f"--coordinator={coordinator} has no port; write HOST:PORT")
    if process_id >= num_processes:
        raise InputError(f"--process_id={process_id} is out of range; processes count from 0 to {num_processes - 1}")
    return coordinator, num_processes, process_id


# ---- Config files


def load_config(path: pathlib.Path, preset: str = "") -> ConfigDict:
    """Calls `get_config(preset)` of a config file. Raises InputError, with the line, on whatever is wrong with the file."""
    if not path.is_file():
        known = [str(file) for file in path.parent.glob("*.py") if file.stem not in ("__init__", "common")]
        hint = f"the nearest one is {_nearest(str(path), sorted(known))}" if known else "check the path"
        raise InputError(f"config file {path} does not exist; {hint}")
    if path.suffix != ".py":
        raise InputError(f"config file {path} is not a .py file; give one that defines get_config(preset)")
    spec = importlib.util.spec_from_file_location(path.stem, path.resolve())
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config(*[preset] if preset else [])
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"{_where(error, path)}: {_describe(error)}; correct the config file") from error
    if not isinstance(config, ConfigDict):
        raise InputError(f"{path}: get_config returns a {type(config).__name__}; it must return a ConfigDict")
    return config


def _where(error: Exception, path: pathlib.Path) -> str:
    if isinstance(error, SyntaxError):
        return f"{error.filename} line {error.lineno}"
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path.resolve())]
    return f"{path} line {lines[-1]}" if lines else str(path)


def _describe(error: Exception) -> str:
    text = error.msg if isinstance(error, SyntaxError) else str(error)
    return f"{type(error).__name__}: {textwrap.shorten(text, 200)}"


def read_config(workdir: pathlib.Path) -> ConfigDict:
    """The config that a run was trained with. Raises InputError where there is none."""
    path = workdir / "config.json"
    try:
        return ConfigDict(json.loads(path.read_text())["config"])
    except FileNotFoundError:
        raise InputError(f"{workdir} holds no run (no config.json); correct --workdir, or train one first") from None
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"{path} is damaged ({_describe(error)}); restore it, or train into another directory") from error


def override(config: ConfigDict, overrides: dict[str, str], allowed: tuple[str, ...] = ("",)) -> None:
    """Sets dotted keys from text, in place, each to its field's own type.

    `allowed`: prefixes of the keys that may be set. Raises InputError for an unknown key (naming the nearest), for a whole
    section, for text that is not of the field's type, and for a key that may not be set.
    """
    for key, text in overrides.items():
        section, _, name = key.rpartition(".")
        known = _flatten(config)
        if key not in known and not (section in OPEN_SECTIONS and name.isidentifier()):
            raise InputError(_unknown_key(key, known))
        if not key.startswith(allowed):
            raise InputError(f"config.{key} belongs to the trained model; eval.py takes config.eval.* and config.data.dir only")
        target = functools.reduce(ConfigDict.__getitem__, section.split(".") if section else [], config)
        target[name] = _convert(key, text, known.get(key))


def _flatten(config: ConfigDict, prefix: str = "") -> dict[str, Any]:
    flat = {}
    for name, value in config.items():
        flat |= _flatten(value, f"{prefix}{name}.") if isinstance(value, ConfigDict) else {prefix + name: value}
    return flat


def _unknown_key(key: str, known: Iterable[str]) -> str:
    fields = [name for name in known if name.startswith(f"{key}.")]
    if fields or key in OPEN_SECTIONS:
        field = fields[0] if fields else f"{key}.{OPEN_SECTIONS[key]}"
        return f"config.{key} is a section; set one of its fields, such as --config.{field}=VALUE"
    return f"unknown config key {key!r}; the nearest known one is {_nearest(key, known)!r}"


def _nearest(name: str, known: Iterable[str]) -> str:
    """The most similar name. A right last component in the wrong section counts as nearer than all else."""
    same_field = [other for other in known if other.rpartition(".")[2] == name.rpartition(".")[2]]
    return difflib.get_close_matches(name, same_field or list(known), n=1, cutoff=0.0)[0]


def _convert(key: str, text: str, old: Any) -> Any:
    """`text` as a value of the type of `old`. A field that is None takes anything."""
    if isinstance(old, str):
        return text
    try:
        return _fit(_literal(text), old)
    except TypeError:
        kinds = {bool: "true or false", int: "a whole number", float: "a number"}
        kind = kinds.get(type(old), f"a {type(old).__name__} of the same kind of items")
        raise InputError(f"config.{key}={text} is not {kind}; the present value is {old!r}") from None


def _literal(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, TypeError):
        return {"true": True, "false": False, "none": None}.get(text.lower(), text)


def _fit(value: Any, old: Any) -> Any:
    if isinstance(old, tuple | list) and isinstance(value, tuple | list):
        return type(old)(_fit(item, old[0] if old else None) for item in value)
    if isinstance(old, float) and type(value) is int:
        return float(value)
    if old is not None and type(value) is not type(old):
        raise TypeError
    return value


# ---- Running


def _run(main: Callable[[Sequence[str]], int], argv: Sequence[str]) -> int:
    """`main(argv)`, with what users can cause reported as one line. A bug keeps its traceback."""
    try:
        return main(argv)
    except InputError as error:
        return _fail(error, 2)
    except KeyboardInterrupt:
        return _fail("interrupted; the same command continues", 130)
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EACCES):
            raise
        return _fail(f"{error.strerror}: {error.filename or 'a file'}; free space, or choose a directory that you can write", 2)


def _fail(message: object, code: int) -> int:
    print("error:", " ".join(str(message).split()), file=sys.stderr)
    return code


def _use_compilation_cache() -> None:
    """Keeps compiled programs between runs, unless the environment already says where."""
    import jax

    if "JAX_COMPILATION_CACHE_DIR" not in os.environ:
        jax.config.update("jax_compilation_cache_dir", os.path.expanduser("~/.cache/gm_jax/xla"))
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 1.0)


def _connect(hosts: tuple[str, int, int] | None) -> None:
    import jax

    try:
        jax.distributed.initialize(*hosts or ())
    except (RuntimeError, ValueError) as error:
        raise InputError(f"cannot reach the other hosts ({_describe(error)}); check the flags of several hosts") from error


@contextlib.contextmanager
def _progress_bar() -> Iterator[Callable[[int, int], None]]:
    from rich.console import Console
    from rich.progress import Progress

    console = Console()
    with Progress(transient=True, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("evaluating", total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
