"""`python -m gm_jax.train`: what train.py is in a checkout."""

import sys

from gm_jax.cli import train_main

if __name__ == "__main__":
    sys.exit(train_main())
