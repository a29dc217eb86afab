"""`eval.py`: from flags to the tasks that evaluate a trained model, or to the comparison of two sets of images."""

import argparse
import json
import pathlib
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from gm_jax.cli.config import override, read_config
from gm_jax.cli.flags import Parser, parse, whole
from gm_jax.cli.progress import Stages
from gm_jax.cli.running import exit_code, set_up_jax
from gm_jax.defaults import plain
from gm_jax.errors import InputError

# what may be overridden: the rest belongs to the trained model, or has no meaning without one
RUN_FIELDS = ("eval.", "data.dir", "data.name")
IMAGES_FIELDS = ("eval.extractor", "eval.inception", "data.dir")

USAGE = """python eval.py --workdir DIR [--tasks=NAME[,NAME...]] [--config.eval.FIELD=VALUE ...]
       python eval.py --images SOURCE --reference SOURCE [--out FILE]"""
EPILOG = """\
A trained model:
  python eval.py --tasks=help
  python eval.py --workdir runs/demo
  python eval.py --workdir runs/demo --tasks=samples --n=100
  python eval.py --workdir runs/demo --tasks=quality --n=10000 --weights=raw
  python eval.py --workdir runs/demo --tasks=likelihood --config.eval.likelihood.full=true
  python eval.py --workdir runs/demo --tasks=samples,denoising --config.eval.sample.steps=50 --out=runs/demo/50-steps

The config is the one that the run was trained with; config.eval.*, config.data.dir and config.data.name (of data that have
moved, but are the same) can be overridden.

Images of any origin, held against others; the last line printed is a JSON object, metric -> value and provenance:
  python eval.py --images samples.npz --reference cifar10:train --config.data.dir=/path/to/cifar10
  python eval.py --images samples/ --reference photos/ --config.eval.inception=pt_inception-2015-12-05-6726825d.pth
  python eval.py --images samples.npz --reference statistics.npz --out=judgement.json
  python eval.py --images samples.npz --reference digits:test --config.eval.extractor=runs/classifier-digits

A SOURCE is a folder of images, an .npz file with `images` (uint8 [n,H,W,C]; and `labels`, if any), or a data set's split:
cifar10:train, cifar10:test, mnist:..., digits:... A reference may also be an .npz file of statistics, `mu` and `sigma`."""


def eval_main(argv: Sequence[str] | None = None) -> int:
    """Runs `eval.py` on `argv` (default: the process's own arguments) and returns the exit code."""
    return exit_code(_eval, sys.argv[1:] if argv is None else argv)


def _eval(argv: Sequence[str]) -> int:
    parser = _parser()
    flags, overrides = parse(parser, argv)
    if flags.tasks == "help":
        from gm_jax.evaluation import tasks

        print(tasks.help_text())
        return 0
    if flags.images or flags.reference:
        _check_images_flags(parser, flags)
        only = f"has no bearing on --images; only {', '.join(IMAGES_FIELDS)} have"
        config = override(plain(), overrides, IMAGES_FIELDS, only)
        set_up_jax()
        _compare(config, flags)
    else:
        if not flags.workdir:
            raise InputError("--workdir is missing; name the directory that train.py wrote, or give --images and --reference")
        workdir = pathlib.Path(flags.workdir).expanduser()
        only = "belongs to the trained model; eval.py takes config.eval.*, config.data.dir and config.data.name"
        config = override(read_config(workdir), overrides, RUN_FIELDS, only)
        set_up_jax()
        _evaluate(config, workdir, flags)
    return 0


def _check_images_flags(parser: Parser, flags: argparse.Namespace) -> None:
    if flags.workdir:
        raise InputError("--workdir and --images exclude each other; judge a trained model, or images of any origin")
    if not (flags.images and flags.reference):
        raise InputError("--images and --reference go together; say what to judge, and against what")
    for name in ("tasks", "n", "weights", "seed", "batch_size"):
        if getattr(flags, name) != parser.get_default(name):
            raise InputError(f"--{name} has no bearing on --images; leave it out, or judge a --workdir")
    if flags.out and pathlib.Path(flags.out).is_dir():
        raise InputError(f"--out={flags.out} is a folder; with --images it names the file that the JSON goes to")


def _evaluate(config: Mapping[str, Any], workdir: pathlib.Path, flags: argparse.Namespace) -> None:
    from gm_jax.build import load_dataset
    from gm_jax.data.digest import content_digest
    from gm_jax.evaluation import tasks
    from gm_jax.system import interrupts
    from gm_jax.training import workdirs
    from gm_jax.training.restore import recalibrated, restore

    restored = restore(workdir, flags.weights)
    dataset, settings = load_dataset(config), config["eval"]
    data = (dataset.image_shape, dataset.class_names, len(dataset.x_train), content_digest(dataset))
    workdirs.check_data(workdir, workdirs.read(workdir), *data)
    interrupts.check()
    with Stages() as stages:
        context = tasks.Context(
            model=restored.model,
            variables=recalibrated(restored.model, restored.variables, dataset.x_train, dataset.y_train),
            dataset=dataset,
            out=pathlib.Path(flags.out or workdir).expanduser(),
            n=flags.n or settings["n"] or None,
            seed=flags.seed,
            batch_size=flags.batch_size or settings["batch_size"],
            weights=restored.weights,
            step=restored.step,
            options=settings["sample"],
            labels=tuple(settings["labels"]),
            likelihood_options=settings["likelihood"],
            judging=settings,
            stage=stages.stage,
            model_name=config["model"]["name"],
            workdir=workdir,
        )
        written = tasks.evaluate(flags.tasks.split(","), context)
    for name, entry in written["metrics"].items():
        print(_line(name, entry))
    for name, reason in written["skipped"].items():
        print(f"skipped {name}: {reason}")
    for file in [*written["pictures"], "results.json"]:
        print(context.out.absolute() / file)


def _line(name: str, entry: Mapping[str, Any]) -> str:
    spread = next((f" +- {entry[kind]:.2g}" for kind in ("std", "stderr") if entry.get(kind) is not None), "")
    value = entry["note"] if entry["value"] is None else f"{float(entry['value']):.5g}"
    conditions = [f"n={entry['n']}"] if "n" in entry else []
    if "weights" in entry:
        conditions.append(f"{entry['weights']} weights of step {entry['step']}" if entry["weights"] else "real images")
    return f"{name}: {value}{spread}" + (f" ({', '.join(conditions)})" if conditions else "")


def _compare(config: Mapping[str, Any], flags: argparse.Namespace) -> None:
    from gm_jax.evaluation import compare
    from gm_jax.system.files import write_atomically

    out = pathlib.Path(flags.out).expanduser() if flags.out else None
    if out is not None:
        trial = out.with_name(f".{out.name}.trial")
        write_atomically(trial, b"")  # which fails now, and not after the work
        trial.unlink()
    with Stages() as stages:
        found = compare.compare(flags.images, flags.reference, config["eval"], config["data"]["dir"], stages.stage)
    line = json.dumps(found, allow_nan=False)
    print(line)
    if out is not None:
        write_atomically(out, f"{line}\n".encode())


def _parser() -> Parser:
    parser = Parser("eval.py", USAGE, EPILOG)
    model = parser.add_argument_group("a trained model")
    model.add_argument("--workdir", metavar="DIR", help="the run to evaluate")
    model.add_argument("--tasks", metavar="NAMES", default="all", help="separated by commas; help lists them; default: all")
    model.add_argument("--n", type=whole(1), help="how many images; default: config.eval.n, or each task's own")
    model.add_argument("--weights", choices=("ema", "raw"), default="ema", help="default: ema")
    model.add_argument("--seed", type=whole(0, 2**32 - 1), default=0, help="of the samples; default: 0")
    model.add_argument("--batch_size", type=whole(1), help="alters speed and memory only; default: config.eval.batch_size")
    images = parser.add_argument_group("images of any origin")
    images.add_argument("--images", metavar="SOURCE", help="what to judge")
    images.add_argument("--reference", metavar="SOURCE", help="what to hold it against")
    parser.add_argument(
        "--out", metavar="PATH", help="folder for a model's results (default: DIR), or file for the JSON of images"
    )
    return parser
