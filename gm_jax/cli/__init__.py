"""The command line: flags, config files, one-line errors and exit codes. Everything else receives plain values.

Exit codes: 0 done; 1 the run diverged; 2 bad input; 130 Ctrl-C; 143 SIGTERM after saving.
JAX is imported only when all flags are known to be good, so that `--help` and mistakes answer at once.
"""

from gm_jax.cli.config import load_config
from gm_jax.cli.eval import eval_main
from gm_jax.cli.train import train_main

__all__ = ["eval_main", "load_config", "train_main"]
