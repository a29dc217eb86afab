"""Trains, judges and reports the models of a study one after the other, from wherever a former call left off."""

import json
import math
import pathlib
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import IO, Any, NamedTuple

import gm_jax
from gm_jax.study import processes
from gm_jax.study.entries import Entry, Settings, spread
from gm_jax.study.ledger import Ledger, State
from gm_jax.study.view import View

SAVE_EVERY = 10.0  # seconds between two notes of how long a training has had
REHEARSAL_LOG = 16  # steps between two lines of a rehearsal's log; two lines tell the speed,
REHEARSAL_SECONDS = 20.0  # or as many steps as take so long after the first one, which is said by
FIRST_STEP = re.compile(r"the first dispatch took ([\d.]+) s")
LEAST_SHARE = 0.25  # of its minutes that a run spends in steps, however long the rehearsal had to compile
# nothing but train steps, and what precedes them: compilation, and the features of the real images that curves are held against
REHEARSAL = {"heldout_every": 0, "sample_every": 0, "proxy_every": 10**9, "checkpoint_every": 10**9, "log_every": REHEARSAL_LOG}
DIED_OF_SIGTERM = -signal.SIGTERM  # before train.py was ready to save

Tick = Callable[[float], None]


class Commands(NamedTuple):
    """How the programs are called that do the work."""

    train: Sequence[str] = (sys.executable, "-m", "gm_jax.train")
    evaluate: Sequence[str] = (sys.executable, "-m", "gm_jax.eval")
    report: Sequence[str] = (sys.executable, "-m", "gm_jax.report")


class Request(NamedTuple):
    """What the user asked for."""

    directory: pathlib.Path
    entries: Sequence[Entry]
    settings: Mapping[str, Settings]  # by the entry's name
    minutes: float | None = None  # wall-clock for training each model in this call; None: its own number of steps
    n: int | None = None  # of eval.py
    commands: Commands = Commands()


class Failed(RuntimeError):
    """A process of one model failed; the message is what it said last."""


class Study:
    """A call of the study. What outlives it is in the ledger and in the work directories."""

    def __init__(self, request: Request, ledger: Ledger, lock: IO[str], view: View):
        self.request, self.ledger, self.lock, self.view = request, ledger, lock, view

    def conduct(self) -> dict[str, str]:
        """Does all that is not done yet. Returns why models failed, by name; the others are not affected."""
        for entry in self.request.entries:
            state = self.ledger[entry.name]
            try:
                self._train(entry, state)
                self._evaluate(entry, state)
                state.failed = ""
            except Failed as error:
                state.failed = str(error)
                self.view.row(entry.name, "failed", text=state.failed)
            self.ledger.save()
            self._report()
        failures = {e.name: self.ledger[e.name].failed for e in self.request.entries if self.ledger[e.name].failed}
        for entry in self.request.entries:
            if entry.name not in failures:  # its minutes are over; the next call adds to them
                self.ledger[entry.name].granted += 60 * (self.request.minutes or 0)
        self.ledger.save()
        return failures

    # --- training

    def _train(self, entry: Entry, state: State) -> None:
        settings = self.request.settings[entry.name]
        limit = math.inf if self.request.minutes is None else state.granted + 60 * self.request.minutes
        workdir = self._workdir(entry.name)
        if newest_step(workdir) is None:  # whatever it has had is lost
            state.seconds, state.trained = 0.0, 0
        if state.trained >= settings.steps or state.seconds >= limit:
            self.view.row(entry.name, "trained", state.seconds, f"step {newest_step(workdir)}, before this call")
            return
        if self.request.minutes is not None and not workdir.exists():
            self._rehearse(entry, state)
        had, saved = state.seconds, 0.0

        def tick(seconds: float) -> None:
            nonlocal saved
            state.seconds = had + seconds
            if seconds > saved + SAVE_EVERY:
                saved = seconds
                self.ledger.save()

        fields = spread(settings, state.expected_steps or settings.steps) | state.fields
        outcome = self._run(entry, "training", self._train_command(entry, workdir, fields), limit - had, tick=tick)
        step = newest_step(workdir)
        if outcome.code == 0:
            state.trained = settings.steps
        elif not (outcome.stopped and outcome.code in (128 + signal.SIGTERM, DIED_OF_SIGTERM)):
            raise Failed(f"training: {reason(outcome)}")
        elif step is None:
            raise Failed(f"training: {self.request.minutes:g} minutes were too few for a first step")
        self.view.row(entry.name, "trained", state.seconds, f"step {step} of {settings.steps}")

    def _rehearse(self, entry: Entry, state: State) -> None:
        """Finds out how many steps --minutes will allow: it takes a few in a directory that is then thrown away.

        Fields that are shares of that number are set here, once and for all. Programs that it compiles are found again by the
        run itself.
        """
        settings = self.request.settings[entry.name]
        workdir = self.request.directory / "rehearsals" / entry.name
        shutil.rmtree(workdir, ignore_errors=True)
        command = self._train_command(entry, workdir, {f"train.{key}": str(value) for key, value in REHEARSAL.items()})
        compiled = compilation = 0.0  # when its first step was made, and how long that took

        def enough() -> bool:
            nonlocal compiled, compilation
            if not compiled and (said := FIRST_STEP.match(processes.last_line(self._log(entry)))):
                compiled, compilation = time.monotonic(), float(said[1])
            taken = time.monotonic() - compiled if compiled else 0.0
            return steps_and_rate(workdir)[0] >= 2 * REHEARSAL_LOG or taken > REHEARSAL_SECONDS

        outcome = self._run(entry, "rehearsal", command, enough=enough)
        rate = steps_and_rate(workdir)[1] or 1 / outcome.seconds
        shutil.rmtree(workdir, ignore_errors=True)
        if not outcome.stopped and outcome.code != 0:
            raise Failed(f"rehearsal: {reason(outcome)}")
        seconds = 60 * self.request.minutes
        allowed = max(1, round(rate * max(seconds - compilation, LEAST_SHARE * seconds)))
        if allowed < settings.steps:
            state.expected_steps = allowed
            state.fields = {key: str(max(1, round(share * allowed))) for key, share in entry.shares.items()}
        self.ledger.save()
        self.view.row(entry.name, "rehearsed", outcome.seconds, f"{rate:.3g} steps/s")

    def _train_command(self, entry: Entry, workdir: pathlib.Path, fields: Mapping[str, str]) -> list[str]:
        settings = self.request.settings[entry.name]
        flags = ["--config", settings.config, "--workdir", str(workdir), *config_flags(settings.fields | fields)]
        return [*self.request.commands.train, *flags]

    # --- evaluation

    def _evaluate(self, entry: Entry, state: State) -> None:
        """All tasks, then the quality of samples drawn in the entry's other ways; what the newest checkpoint has is left."""
        settings, workdir = self.request.settings[entry.name], self._workdir(entry.name)
        fields = {key: text for key, text in settings.fields.items() if key.startswith("eval.") or key == "data.dir"}
        seconds = 0.0
        for tasks, sampling in [("all", {}), *(("quality,cost", sampling) for sampling in entry.samplings)]:
            asked = fields | {key: str(value) for key, value in sampling.items()}
            wanted = {"tasks": tasks, "fields": asked, "n": self.request.n, "version": gm_jax.__version__}
            wanted["step"] = newest_step(workdir)
            if wanted in state.evaluated and (workdir / "results.json").is_file():
                continue
            n = [f"--n={self.request.n}"] if self.request.n else []
            command = [*self.request.commands.evaluate, "--workdir", str(workdir), f"--tasks={tasks}", *n, *config_flags(asked)]
            outcome = self._run(entry, "evaluation", command)
            seconds += outcome.seconds
            if outcome.code != 0:
                raise Failed(f"evaluation: {reason(outcome)}")
            state.evaluated.append(wanted)
            self.ledger.save()
        self.view.row(entry.name, "evaluated", seconds, self.view.key_metrics(workdir))

    # --- report

    def _report(self) -> None:
        """Over all models that have begun to train, in former calls too, with a remark for each that failed."""
        workdirs = [self._workdir(name) for name in self.ledger.names()]
        begun = [str(workdir) for workdir in workdirs if (workdir / "config.json").is_file()]
        if not begun:
            return
        remarks = [f"{name} failed: {self.ledger[name].failed}" for name in self.ledger.names() if self.ledger[name].failed]
        flags = [*begun, "--out", str(self.request.directory / "report"), *(f"--remark={remark}" for remark in remarks)]
        log = self.request.directory / "logs" / "report.log"
        outcome = processes.run([*self.request.commands.report, *flags], log, self.lock)
        if outcome.code != 0:
            self.view.row("report", "failed", text=reason(outcome))

    def _workdir(self, name: str) -> pathlib.Path:
        return self.request.directory / name

    def _log(self, entry: Entry) -> pathlib.Path:
        return self.request.directory / "logs" / f"{entry.name}.log"

    def _run(
        self, entry: Entry, stage: str, command: Sequence[str], limit: float = math.inf, tick: Tick | None = None, **hooks: Any
    ) -> processes.Outcome:
        log = self._log(entry)
        with self.view.working(entry.name, stage, log) as show:
            return processes.run(command, log, self.lock, limit, ticks=[show, *([tick] if tick else [])], **hooks)


def config_flags(fields: Mapping[str, str]) -> list[str]:
    """{"a.b": text} as flags of train.py and eval.py."""
    return [f"--config.{key}={text}" for key, text in fields.items()]


def newest_step(workdir: pathlib.Path) -> int | None:
    """The step of a work directory's newest checkpoint; None if it has none."""
    folder = workdir / "checkpoints"
    steps = [int(path.name) for path in folder.iterdir() if path.name.isdecimal()] if folder.is_dir() else []
    return max(steps, default=None)


def steps_and_rate(workdir: pathlib.Path) -> tuple[int, float]:
    """The last step that a run has logged, and its steps per second then; zeros before the first."""
    log = workdir / "metrics.jsonl"
    lines = [json.loads(line) for line in log.read_text().split("\n")[:-1]] if log.is_file() else []
    timed = [line for line in lines if line.get("steps_per_second")]
    return max((line["step"] for line in lines), default=0), timed[-1]["steps_per_second"] if timed else 0.0


def reason(outcome: processes.Outcome) -> str:
    """Why a process failed, as it said itself."""
    if outcome.code < 0:
        return f"died of {signal.Signals(-outcome.code).name}; its log ends in: {outcome.last_line}"
    return outcome.last_line.removeprefix("error: ") or f"exit code {outcome.code}"
