"""`python -m gm_jax.eval`: what eval.py is in a checkout."""

import sys

from gm_jax.cli import eval_main

if __name__ == "__main__":
    sys.exit(eval_main())
