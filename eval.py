"""Evaluates a trained model: python eval.py --workdir DIR --tasks=samples,... (see --help)."""

from gm_jax.cli import eval_main

if __name__ == "__main__":
    raise SystemExit(eval_main())
