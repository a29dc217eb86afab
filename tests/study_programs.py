"""Stand-ins for train.py, eval.py and the report, quick and without JAX: `study_programs.py train|evaluate|report FLAGS`.

Each call leaves a line in calls.txt beside the work directories. What a config's name begins with says how its run behaves:
"broken" fails at once, "endless" makes 100 steps a second until it is stopped, all others end at step 20.
"""

import json
import pathlib
import signal
import sys
import time

STEPS = 20


def flag(name: str, default: str = "") -> str:
    words = [word.partition("=") for word in sys.argv]
    found = [value or sys.argv[i + 1] for i, (word, _, value) in enumerate(words) if word == f"--{name}"]
    return found[-1] if found else default


def train(workdir: pathlib.Path) -> int:
    kind = pathlib.Path(flag("config").partition(":")[0]).stem
    if kind.startswith("broken"):
        print("compiling\nerror: the loss is not finite")
        return 1
    stop = []
    signal.signal(signal.SIGTERM, lambda *_: stop.append(True))
    checkpoints = workdir / "checkpoints"
    checkpoints.mkdir(parents=True, exist_ok=True)
    (workdir / "config.json").write_text("{}")
    step = max((int(path.name) for path in checkpoints.iterdir()), default=0)
    print("the first dispatch took 0.0 s, compilation included", flush=True)
    with (workdir / "metrics.jsonl").open("a") as log:
        while (kind.startswith("endless") or step < STEPS) and not stop:
            step += 1
            time.sleep(0.01)
            log.write(json.dumps({"step": step, "steps_per_second": 100.0}) + "\n")
            log.flush()
    (checkpoints / str(step)).mkdir(exist_ok=True)
    print(f"stopped at step {step}")
    return 143 if stop else 0


def evaluate(workdir: pathlib.Path) -> int:
    step = max(int(path.name) for path in (workdir / "checkpoints").iterdir())
    entry = {"value": 3.0, "step": step}
    (workdir / "results.json").write_text(json.dumps({"metrics": {"fid1k_train": [entry], "elbo_bits_per_dim": [entry]}}))
    return 0


def main() -> int:
    program = sys.argv[1]
    workdir = pathlib.Path(flag("workdir") or flag("out"))
    directory = workdir.parent.parent if workdir.parent.name == "rehearsals" else workdir.parent
    with (directory / "calls.txt").open("a") as calls:
        calls.write(json.dumps([workdir.name if workdir.parent == directory else "rehearsal", *sys.argv[1:]]) + "\n")
    return {"train": train, "evaluate": evaluate, "report": lambda _: 0}[program](workdir)


if __name__ == "__main__":
    sys.exit(main())
