"""Evaluates a trained model, or images of any origin: python eval.py --workdir DIR (see --help)."""

from gm_jax.cli import eval_main

if __name__ == "__main__":
    raise SystemExit(eval_main())
