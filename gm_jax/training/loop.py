"""The training loop: from a config and a work directory to a trained model. Rerun, it resumes.

All that a step computes is in learning.py, and where it runs in parallel.py. The loop only dispatches steps until something is
due, and does what is due: log, held-out loss, checkpoint, and what the watchers that it was handed look at.
"""

import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import jax

from gm_jax import __version__
from gm_jax.build import compute_dtype, resolve
from gm_jax.core import Variables
from gm_jax.data.dataset import Dataset
from gm_jax.errors import InputError
from gm_jax.images import save_png
from gm_jax.system.locks import locked
from gm_jax.training import learning, memory, profile, workdirs
from gm_jax.training.alarm import Alarm
from gm_jax.training.checkpoints import Checkpoints
from gm_jax.training.failures import describe_failure, explained
from gm_jax.training.parallel import Program, to_host
from gm_jax.training.restore import recalibrated
from gm_jax.training.run import Run, compile_run, next_dispatch, prepare, record_of, restore_or_start
from gm_jax.training.signals import Signals
from gm_jax.training.speed import Utilisation, batch_shapes
from gm_jax.training.tally import Tally
from gm_jax.training.watch import Watch, Watcher, nobody
from gm_jax.training.writers import Clock, Display, Writer


class NonFinite(RuntimeError):
    """A loss or a gradient was not finite. The last checkpoint is from before."""


class Interrupted(RuntimeError):
    """A signal asked the run to stop. Its state is saved."""

    def __init__(self, message: str, code: int):
        super().__init__(message)
        self.code = code  # 128 + signal, as shells have it


def train(
    config: Mapping[str, Any], workdir: Path, dataset: Dataset | None = None, quiet: bool = False, watch: Watch = nobody
) -> None:
    """Trains until `config["train"]["steps"]`, from where `workdir` stands.

    `dataset`: already loaded, instead of what `config["data"]` names. `quiet`: prints nothing.
    `watch`: gives those who look at the model between steps.

    Raises:
        InputError: bad config, data, or work directory; nothing is overwritten then.
        NonFinite: training diverged; the message names the step, the term and the parameter.
        Interrupted: SIGTERM or Ctrl-C; the state is saved.
        LostProcess: another process has ended; the last checkpoint is from before.
    """
    run = prepare(config, Path(workdir), dataset, watch)
    settings, lead = run.config["train"], jax.process_index() == 0
    workdirs.check(run.workdir, record_of(run, {}), resolve)
    with (
        only_process(run.workdir),
        Checkpoints(run.workdir, keep_every=settings["keep_every"]) as checkpoints,
        Signals() as signals,
    ):
        train_state, record = restore_or_start(run, checkpoints)
        first, last = int(train_state.step), settings["steps"]
        display = Display(first, last, settings["batch_size"], active=lead and not quiet)
        introduce(run, train_state, display)
        if lead and first < last:
            workdirs.write(run.workdir, record)
        writer = Writer(run.workdir, first, active=lead and first < last)
        try:
            if first < last:
                with explained():
                    loop(open_session(run, checkpoints, writer, display, signals), train_state)
        finally:
            display.close()
            writer.close()
        display.print(f"done: {last} steps" if first < last else f"nothing to do: {first} of {last} steps were made already")
        display.print(f"work directory: {run.workdir.absolute()}")


@contextmanager
def only_process(workdir: Path) -> Iterator[None]:
    """Raises InputError where another run is at work in the directory; the processes of one run count as one."""
    if jax.process_index() != 0:
        yield
        return
    held = f"another process trains in {workdir}; wait for it, or choose another --workdir"
    with locked(workdir / workdirs.LOCK, held=held):
        try:
            yield
        finally:  # a run that was refused leaves nothing behind
            if [path.name for path in workdir.iterdir()] == [workdirs.LOCK]:
                (workdir / workdirs.LOCK).unlink()
                workdir.rmdir()


def open_session(run: Run, checkpoints: Checkpoints, writer: Writer, display: Display, signals: Signals) -> "Session":
    """What the loop works with."""
    shape, classes, size = run.dataset.image_shape, run.dataset.num_classes, run.config["train"]["batch_size"]
    variables = Variables(run.abstract.params, run.abstract.state)
    dtype = compute_dtype(run.config["precision"])
    utilisation = Utilisation(run.eval_model, variables, batch_shapes(size, shape, classes), dtype)
    profiler = profile.Profiler(run.workdir / "profile", run.window)
    return Session(run, checkpoints, writer, display, signals, profiler, utilisation, Alarm(run.model.symptoms))


def introduce(run: Run, train_state: learning.TrainState, display: Display) -> None:
    """Prints what is trained, on what, and where it goes."""
    data, config = run.dataset, run.config
    shape = "x".join(map(str, data.image_shape))
    count = sum(leaf.size for leaf in jax.tree.leaves(train_state.params))
    what = f"images of {shape}" if len(data.image_shape) == 3 else f"points of {shape} numbers"
    sizes = f"{len(data.x_train)} training and {len(data.x_test)} test {what}"
    device, dtype = jax.devices()[0].device_kind, compute_dtype(config["precision"])
    step = int(train_state.step)
    display.print(f"gm_jax {__version__}: {config['model']['name']} ({count:,} parameters) on {data.name} ({sizes})")
    display.print(f"{run.parallel.devices} x {device}, {dtype}, seed {config['seed']}")
    display.print(f"work directory: {run.workdir.absolute()}")
    display.print(f"resuming at step {step}" if step else "starting")


# --- the loop itself ----------------------------------------------------------------------------------------------------------


class Session(NamedTuple):
    """A run in progress: the things that have a life outside the train state."""

    run: Run
    checkpoints: Checkpoints
    writer: Writer
    display: Display
    signals: Signals
    profiler: profile.Profiler
    utilisation: Utilisation
    alarm: Alarm


def loop(session: Session, train_state: learning.TrainState) -> None:
    """The steps from `train_state.step` to `train.steps`, and what is due between them."""
    run = session.run
    step = first = int(train_state.step)
    train_state = run.parallel.put_state(train_state)
    feed, program, heldout = compile_run(run)
    for watcher in run.watchers if jax.process_index() == 0 else ():
        watcher.prepare(session.display.print)
    tally, clock = Tally(), Clock()
    clock.start()
    while step < run.config["train"]["steps"]:
        n, active = next_dispatch(run, step)
        batches = feed(step, run.steps_per_dispatch)
        if active not in program.compiled:
            if step > first:
                clock.stop()
            compile_ahead(session, program, train_state, batches, n, active)
            clock.start()
        session.profiler.begin(step, train_state)
        train_state, *result = program(train_state, *batches, n, active)
        tally.add(*result)
        check(session, tally, lag=1)
        step += n
        clock.steps += n
        if step == first + n:
            jax.block_until_ready(train_state)
            session.display.print(f"the first dispatch took {clock.restart():.1f} s, compilation included")
        session.display.advance(step)
        interlude(session, train_state, step, tally, clock, heldout, program.compiled[active])
        clock.start()
    session.checkpoints.wait()


def interlude(
    session: Session,
    train_state: learning.TrainState,
    step: int,
    tally: Tally,
    clock: Clock,
    heldout: Callable[..., dict[str, float]],
    compiled: Any,
) -> None:
    """What is due after `step` steps: log, profile, held-out loss, checkpoint, watchers. Stops the clock.

    Raises Interrupted where a signal has come in.
    """
    run, settings = session.run, session.run.config["train"]
    due = lambda name: bool(settings[name]) and step % settings[name] == 0  # noqa: E731
    stop = (jax.process_count() == 1 or due("log_every")) and session.signals.received()
    done = step == settings["steps"]
    if due("log_every") or done or stop:
        check(session, tally)
        rate = clock.lap()
        clock.stop()
        log(session, step, tally.means(), rate)
    clock.stop()
    if traced := session.profiler.end(step, train_state, now=done or stop):
        report_profile(session, step, traced, compiled)
    if due("heldout_every") or (done and settings["heldout_every"]):
        log_heldout(session, train_state, step, heldout)
    if due("checkpoint_every") or due("keep_every") or done or stop:
        check(session, tally)
        session.checkpoints.save(step, run.parallel.get_state(train_state))
    if stop:
        session.checkpoints.wait()
        name = signal.Signals(stop).name
        raise Interrupted(f"{name}: stopped at step {step}, which is saved; the same command resumes", 128 + stop)
    look(session, train_state, step, [watcher for watcher in run.watchers if done or step % watcher.every == 0])


def compile_ahead(
    session: Session, program: Program, train_state: learning.TrainState, batches: Any, n: int, active: tuple[str, ...]
) -> None:
    """Compiles a dispatch, and says how much memory it will take."""
    program.prepare(train_state, *batches, n, active)
    run, data = session.run, (session.run.dataset.x_train, session.run.dataset.y_train)
    resident = sum(a.nbytes for a in data if a is not None)
    resident = resident if resident <= run.config["data"]["device_bytes"] else 0
    session.display.print(memory.describe(memory.measure(train_state, resident, program.compiled[active])))


def report_profile(session: Session, step: int, steps: int, compiled: Any) -> None:
    """What the trace of the `steps` steps before `step` says."""
    if not session.writer.active:
        return
    folder, utilisation = session.profiler.folder, session.utilisation
    summary = profile.summarize(
        profile.read_operations(folder),
        steps,
        step_flops=utilisation.step_flops(step - 1),
        compiled_flops=(compiled.cost_analysis() or {}).get("flops"),
        matrix_rate=utilisation.rate(),
        program=compiled.as_text() or "",
    )
    profile.write(summary, folder)
    session.display.print(profile.describe(summary))
    session.display.print(f"trace: {folder.absolute()}")


def check(session: Session, tally: Tally, lag: int = 0) -> None:
    """Raises NonFinite if a step failed; the newest `lag` dispatches may still be running and are not waited for."""
    failure = tally.failure(lag)
    if failure is None:
        return
    step, output = failure
    reason = describe_failure(output, session.run.abstract.params, session.run.model.objectives)
    saved = max(session.checkpoints.steps(), default=None)
    hint = f"the checkpoint of step {saved} is intact" if saved is not None else "no checkpoint had been written yet"
    raise NonFinite(f"the update after step {step}: {reason}; {hint}; try a lower learning rate, gradient clipping or float32")


def log(session: Session, step: int, values: dict[str, float], rate: float) -> None:
    speed = {"steps_per_second": rate, "images_per_second": rate * session.run.config["train"]["batch_size"]}
    mfu = session.utilisation.of(step - 1, rate) if session.writer.active else None
    session.writer.scalars(step, {**values, **speed, **({} if mfu is None else {"mfu": mfu})})
    session.display.log(step, rate, mfu, values)
    if warnings := session.alarm(values):
        session.writer.warnings(step, warnings)
        for line in warnings:
            session.display.print(f"step {step}  warning: {line}")


def log_heldout(
    session: Session, train_state: learning.TrainState, step: int, heldout: Callable[..., dict[str, float]]
) -> None:
    """The losses of the objectives in their windows; those that so few test examples do not have are left out."""
    found, whole = {}, session.run.parallel.get_state(train_state)
    for objective in session.run.model.objectives:
        if learning.in_window(objective, step - 1):
            try:
                found |= heldout(whole, (objective.name,))
            except InputError as error:
                session.display.print(f"step {step}: no held-out loss of {objective.name} ({error})")
    if found:
        session.writer.scalars(step, found)
        losses = "  ".join(f"{key} {value:.4g}" for key, value in found.items() if key.endswith("/loss"))
        session.display.print(f"step {step}  {losses}")


def look(session: Session, train_state: learning.TrainState, step: int, watchers: Sequence[Watcher]) -> None:
    """What the watchers see in the averaged weights: numbers to the log, pictures to the work directory."""
    variables = averaged_variables(session.run, session.run.parallel.get_state(train_state)) if watchers else None
    for watcher in watchers if variables is not None else ():
        try:
            sight = watcher.look(variables)
        except InputError as error:  # samples that are not finite yet, say, are no reason to stop training
            session.display.print(f"step {step}: no {watcher.name} ({error})")
            continue
        if sight.scalars:
            session.writer.scalars(step, sight.scalars)
            session.display.print(f"step {step}  " + "  ".join(f"{name} {value:.4g}" for name, value in sight.scalars.items()))
        for name, picture in sight.pictures.items():
            save_png(session.run.workdir / name / f"step_{step:08d}.png", picture)
            session.writer.image(step, name, picture)


def averaged_variables(run: Run, train_state: learning.TrainState) -> Variables | None:
    """What is evaluated: averaged parameters, and BatchNorm statistics that fit them, in the first process's memory."""
    params, state = to_host((learning.averaged_params(train_state, run.model.objectives), train_state.state))
    if jax.process_index() != 0:
        return None
    return recalibrated(run.eval_model, Variables(params, state), run.dataset.x_train, run.dataset.y_train)
