"""`train.py`: from flags and a config file to the training loop."""

import argparse
import os
import pathlib
import sys
from collections.abc import Sequence

from gm_jax.cli.config import DEFAULT_PRESET, describe, find_config, load_config, override
from gm_jax.cli.flags import Parser, parse, whole
from gm_jax.cli.running import exit_code, fail, set_up_jax
from gm_jax.errors import InputError

USAGE = "python train.py --config FILE[:PRESET] [--workdir DIR] [--config.FIELD=VALUE ...]"
HEARTBEAT = 30  # seconds without a sign of life after which a process counts as lost
EPILOG = """\
examples:
  python train.py --config configs/ddpm.py:digits
  python train.py --config configs/ddpm.py --config.data.dir=/path/to/cifar10
  python train.py --config configs/vae.py:digits --workdir runs/long --config.train.steps=20_000
  python -m gm_jax.train --config ddpm:digits           a shipped config by its name, from any directory

Every field of the config file can be overridden; gm_jax/defaults.py explains those that all experiments share.
The same command again resumes where the run stopped."""


def train_main(argv: Sequence[str] | None = None) -> int:
    """Runs `train.py` on `argv` (default: the process's own arguments) and returns the exit code."""
    return exit_code(_train, sys.argv[1:] if argv is None else argv)


def _train(argv: Sequence[str]) -> int:
    flags, overrides = parse(_parser(), argv)
    if not flags.config:
        raise InputError("--config is missing; for instance --config configs/ddpm.py:digits")
    hosts = _hosts(flags)
    name, _, preset = flags.config.partition(":")
    file = find_config(name)
    config = override(load_config(file, preset), overrides)
    workdir = pathlib.Path(flags.workdir or f"runs/{file.stem}-{preset or DEFAULT_PRESET}").expanduser()

    set_up_jax()
    if hosts or flags.distributed:
        _connect(hosts)
    from gm_jax import experiment
    from gm_jax.training import loop
    from gm_jax.training.failures import LostProcess

    try:
        experiment.train(config, workdir)
    except loop.NonFinite as error:
        return fail(error, 1)
    except loop.Interrupted as error:
        return fail(error, error.code)
    except LostProcess as error:
        code = fail(error, 1)
        sys.stdout.flush()
        os._exit(code)  # JAX would wait for the other process at its end, and then abort
    return 0


def _parser() -> Parser:
    parser = Parser("train.py", USAGE, EPILOG)
    parser.add_argument("--config", metavar="FILE[:PRESET]", help=f"default preset: {DEFAULT_PRESET}")
    parser.add_argument("--workdir", metavar="DIR", help="where the run is kept; default: runs/NAME-PRESET")
    hosts = parser.add_argument_group("several hosts (the same command on each)")
    hosts.add_argument("--distributed", action="store_true", help="find the other hosts by the cluster's own means, or:")
    hosts.add_argument("--coordinator", metavar="HOST:PORT", help="address of process 0")
    hosts.add_argument("--num_processes", type=whole(1), metavar="N")
    hosts.add_argument("--process_id", type=whole(0), metavar="I", help="0 to N-1")
    return parser


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


def _connect(hosts: tuple[str, int, int] | None) -> None:
    import jax

    try:
        jax.distributed.initialize(*hosts or (), heartbeat_timeout_seconds=HEARTBEAT)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"cannot reach the other hosts ({describe(error)}); check the flags of several hosts") from error
