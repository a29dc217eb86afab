"""Trains a model: python train.py --config configs/ddpm.py[:preset] (see --help)."""

from gm_jax.cli import train_main

if __name__ == "__main__":
    raise SystemExit(train_main())
