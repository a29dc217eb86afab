"""Runs in another process: one by `train.py --config worker.py:CONFIG.json`, several by `worker.py JOBS.json`."""

import json
import pathlib
import shutil
import sys

from ml_collections import ConfigDict


def get_config(preset: str) -> ConfigDict:
    return ConfigDict(json.loads(pathlib.Path(preset).read_text()))


def main(path: str) -> None:
    """Trains each job's config in its work directory, which begins as a copy of `start` where that is given."""
    from gm_jax import experiment

    for job in json.loads(pathlib.Path(path).read_text()):
        if job["start"]:
            shutil.copytree(job["start"], job["workdir"])
        experiment.train(job["config"], pathlib.Path(job["workdir"]))


if __name__ == "__main__":
    main(sys.argv[1])
