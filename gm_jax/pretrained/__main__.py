"""The command line: `python -m gm_jax.pretrained --help`. Exit codes: 0 done; 2 bad input."""

import argparse
import pathlib
import sys
from collections.abc import Mapping, Sequence

from gm_jax.cli.flags import Parser, parse
from gm_jax.cli.running import exit_code, set_up_jax
from gm_jax.errors import InputError
from gm_jax.pretrained.sources import NAMES, fetch

USAGE = """python -m gm_jax.pretrained NAME|PATH --out WORKDIR [--licence TEXT] [--config.FIELD=VALUE ...]
       python -m gm_jax.pretrained WORKDIR --export DIR [--weights ema|raw]"""
EPILOG = f"""\
Published weights become a work directory, which eval.py, load and train.init_from take like any other:
  python -m gm_jax.pretrained google/ddpm-cifar10-32 --out runs/published-ddpm
  python -m gm_jax.pretrained /path/to/edm-cifar10-32x32-cond-vp.pkl --out runs/published-edm
  python -m gm_jax.pretrained /path/to/checkpoint_26.pth --out runs/published-sub-vp --config.model.sde=sub_vp

And a work directory becomes model.safetensors and config.json, which this program takes, too:
  python -m gm_jax.pretrained runs/mine --export mine

names: {", ".join(NAMES)}.
paths: a folder of diffusers (UNet2DModel); .pkl of EDM; .pth of score_sde_pytorch, NCSN and NCSNv2; .pt of torchcfm;
edm_cifar10_ema of consistency_models_cifar10; .pkl of StyleGAN2-ADA for CIFAR-10; a folder that was exported here.

The data is needed, as in training, since a run says what it is judged against: --config.data.dir=/path/to/cifar10."""


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command on `argv` (default: the process's own arguments) and returns the exit code."""
    return exit_code(_main, sys.argv[1:] if argv is None else argv)


def _main(argv: Sequence[str]) -> int:
    flags, overrides = parse(_parser(), argv)
    check(flags, overrides)
    set_up_jax()
    if flags.export:
        from gm_jax.pretrained.exporting import export

        export(pathlib.Path(flags.source).expanduser(), folder := pathlib.Path(flags.export).expanduser(), flags.weights)
        print(f"exported: {folder.absolute()}")
        return 0
    from gm_jax.pretrained.writing import Source, write

    workdir = pathlib.Path(flags.out).expanduser()
    if flags.source in NAMES:
        published = NAMES[flags.source]
        source = Source(fetch(flags.source), f"{published.address}/{published.files[-1]}", flags.licence or published.licence)
    else:
        path = pathlib.Path(flags.source).expanduser()
        source = Source(path, str(path.absolute()), flags.licence)
    checkpoint = write(source, workdir, overrides)
    print(f"{checkpoint.config['model']['name']} of {checkpoint.code}, step {checkpoint.step}")
    print(f"work directory: {workdir.absolute()}")
    return 0


def check(flags: argparse.Namespace, overrides: Mapping[str, str]) -> None:
    """InputError unless the flags ask for one of both."""
    if bool(flags.out) == bool(flags.export):
        raise InputError("give --out WORKDIR, for weights that are to be imported, or --export DIR, for a work directory")
    if flags.export and (overrides or flags.licence):
        raise InputError("--config.FIELD and --licence have no bearing on --export; leave them out")
    if flags.out and flags.weights != "ema":
        raise InputError("--weights has no bearing on --out; leave it out")


def _parser() -> Parser:
    parser = Parser("-m gm_jax.pretrained", USAGE, EPILOG)
    parser.add_argument("source", metavar="NAME|PATH", help="of a published checkpoint, or the work directory to export")
    parser.add_argument("--out", metavar="WORKDIR", help="the work directory to write")
    parser.add_argument("--licence", metavar="TEXT", default="", help="of the weights; default: that which their authors chose")
    parser.add_argument("--export", metavar="DIR", help="the folder to write")
    parser.add_argument("--weights", choices=("ema", "raw"), default="ema", help="which to export; default: ema")
    return parser


if __name__ == "__main__":
    sys.exit(main())
