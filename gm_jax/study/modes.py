"""How many modes the games of adversarial models cover: each loss on points of the plane, with several seeds.

    python -m gm_jax.study.modes --workdir runs/modes --out results/modes.json     trains and measures; again, it goes on
    python -m gm_jax.study.modes --table docs/gans.md --out results/modes.json     the table of that page anew

Every game has the networks, the batch and the number of generator updates of configs/gan.py:ring; what differs is in GAMES. Its
settings were chosen on seed 100, on which nothing is reported.
"""

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from gm_jax.build import resolve
from gm_jax.cli.config import find_config, load_config
from gm_jax.cli.running import exit_code
from gm_jax.data.sources import load as load_data
from gm_jax.evaluation.context import Context
from gm_jax.evaluation.plane import points
from gm_jax.experiment import load, train
from gm_jax.report.catalogue import insert
from gm_jax.system.files import write_atomically
from gm_jax.system.provenance import hardware, versions

TOYS = ("ring", "grid25")
SAMPLES = 10_000
METRICS = ("modes_found", "high_quality", "histogram_distance")

# fields of the config, where they differ from configs/gan.py:ring
GAMES: dict[str, Mapping[str, Any]] = {
    "minimax": {"model.loss": "minimax"},
    "non-saturating": {},
    "non-saturating, R1": {"model.penalty": "r1", "model.penalty_weight": 0.1},
    "least squares": {"model.loss": "least_squares"},
    "hinge, spectral norm": {"model.loss": "hinge", "model.critic_norm": "spectral"},
    "Wasserstein, clipping": {"model.loss": "wasserstein", "model.n_critic": 5, "optimizer.critic.weight_clip": 0.3},
    "Wasserstein, gradient penalty": {
        "model.loss": "wasserstein",
        "model.n_critic": 5,
        "model.penalty": "gradient_penalty",
        "model.penalty_weight": 1.0,
    },
    "relativistic, R1 + R2": {"model.loss": "relativistic", "model.penalty": "r1_r2", "model.penalty_weight": 0.01},
}


def settings(game: str, toy: str, seed: int, updates: int) -> dict[str, Any]:
    """The config of one run of `updates` of its generator."""
    config = load_config(find_config("gan"), "ring")
    config["data"]["name"], config["seed"] = toy, seed
    for field, value in GAMES[game].items():
        *path, last = field.split(".")
        section = config
        for name in path:
            section = section.setdefault(name, {})
        section[last] = value
    steps = updates * config["model"].get("n_critic", 1)
    config["train"] |= {"steps": steps, "log_every": 500, "heldout_every": 0, "sample_every": 0, "checkpoint_every": steps}
    return resolve(config)


def measure(config: Mapping[str, Any], workdir: Path) -> dict[str, float]:
    """Trains, unless that is done, and judges the averaged weights."""
    data = load_data(config["data"]["name"])
    train(config, workdir, data, quiet=True)
    model, variables = load(workdir)
    found = points(Context(model, variables, data, workdir, n=SAMPLES))
    return {name: float(found[f"{name}_{SAMPLES}"]["value"]) for name in METRICS}


def table(measured: Mapping[str, Any]) -> str:
    """Markdown: a row a game, for each toy the mean over seeds and, where they differ, the range."""
    seeds = measured["seeds"]
    heads = [f"{toy}: {name}" for toy in TOYS for name in ("modes", "high quality", "distance")]
    lines = [f"| game | {' | '.join(heads)} |", "|---" * (1 + len(heads)) + "|"]
    for game, of_toys in measured["games"].items():
        cells = [
            _cell([run[name] for run in of_toys[toy]], digits)
            for toy in TOYS
            for name, digits in zip(METRICS, (0, 2, 2), strict=True)
        ]
        lines.append(f"| {game} | {' | '.join(cells)} |")
    protocol = f"{len(seeds)} seeds, {measured['updates']} updates of the generator, {SAMPLES} samples, {measured['hardware']}"
    return "\n".join([*lines, "", f"Mean, and range over seeds in brackets; {protocol}.", ""])


def _cell(values: Sequence[float], digits: int) -> str:
    low, high = (f"{value:.{digits}f}" for value in (min(values), max(values)))
    mean = f"{np.mean(values):.{max(digits, 1)}f}" if low != high else low
    return mean if low == high else f"{mean} ({low}-{high})"


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the command lines above; 2 for bad input."""
    return exit_code(_main, sys.argv[1:] if argv is None else argv)


def _main(argv: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m gm_jax.study.modes", description=__doc__.partition("\n")[0])
    parser.add_argument("--workdir", type=Path, default=Path("runs/modes"), help="where the runs go")
    parser.add_argument("--out", type=Path, default=Path("results/modes.json"), help="what was measured")
    parser.add_argument("--seeds", default="0,1,2")
    parser.add_argument("--updates", type=int, default=3000, help="of the generator")
    parser.add_argument("--games", default=",".join(range_of_games()), help="their numbers, in the order of GAMES")
    parser.add_argument(
        "--table", type=Path, help="a page with the markers of modes: its table is written anew, and nothing trained"
    )
    flags = parser.parse_args(argv)
    if flags.table:
        page = insert(flags.table.read_text(), table(json.loads(flags.out.read_text())), "modes")
        write_atomically(flags.table, page.encode())
        return 0
    seeds = [int(seed) for seed in flags.seeds.split(",")]
    chosen = [list(GAMES)[int(number)] for number in flags.games.split(",")]
    found: dict[str, Any] = {game: {toy: [] for toy in TOYS} for game in chosen}
    for toy in TOYS:
        for game in chosen:
            for seed in seeds:
                name = f"{toy}-{list(GAMES).index(game)}-{seed}"
                run = measure(settings(game, toy, seed, flags.updates), flags.workdir / name)
                found[game][toy].append(run)
                print(
                    f"{toy}  {game}  seed {seed}  " + "  ".join(f"{key} {value:.3g}" for key, value in run.items()), flush=True
                )
    record = {"seeds": seeds, "updates": flags.updates, "hardware": hardware(), "versions": versions(), "games": found}
    write_atomically(flags.out, (json.dumps(record, indent=1) + "\n").encode())
    return 0


def range_of_games() -> list[str]:
    """Their numbers, as text."""
    return [str(number) for number in range(len(GAMES))]


if __name__ == "__main__":
    sys.exit(main())
