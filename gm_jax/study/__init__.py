"""The study: many models trained, judged and reported under one protocol, by one command (`python -m gm_jax.study --help`).

Every run is a process of its own, `train.py` or `eval.py`, one at a time; this package only decides which comes next.
"""
