"""The study: every model's turn comes, once; what is interrupted goes on; what fails costs the others nothing."""

import contextlib
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import time

import pytest

from gm_jax.errors import InputError
from gm_jax.study import __main__ as study
from gm_jax.study import conduct, entries, processes
from gm_jax.study.entries import Entry, Settings
from gm_jax.study.ledger import Ledger
from gm_jax.study.view import View

ROOT = pathlib.Path(__file__).parents[1]
PROGRAMS = [sys.executable, str(ROOT / "tests/study_programs.py")]
COMMANDS = conduct.Commands(*([*PROGRAMS, name] for name in ("train", "evaluate", "report")))
SECOND = 1 / 60  # in minutes


def plan(directory, names, minutes=None, **fields) -> conduct.Request:
    """A study of stand-ins, named after how they behave; `fields` are those of their entries."""
    own = [Entry(name, f"{name}.py:tiny", **fields) for name in names]
    steps = {name: 10**6 if name.startswith("endless") else 20 for name in names}
    settings = {e.name: Settings(e.config, dict(e.fields), steps[e.name], {"checkpoint_every": 0, "log_every": 1}) for e in own}
    return conduct.Request(directory, own, settings, minutes, commands=COMMANDS)


def call(directory, names, minutes=None, view=None, **fields) -> dict[str, str]:
    """One call of the study; why models failed."""
    wanted = plan(directory, names, minutes, **fields)
    with processes.alone_in(directory) as lock:
        return conduct.Study(wanted, Ledger(directory, "tiny"), lock, view or View(list(names))).conduct()


def calls(directory) -> list[list[str]]:
    """[model, program, flags ...] of every process since the last look."""
    path = directory / "calls.txt"
    found = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    path.unlink(missing_ok=True)
    return found


def runs(directory) -> list[tuple[str, str]]:
    """(model, program) of every process since the last look, but for the report."""
    return [(model, program) for model, program, *_ in calls(directory) if program != "report"]


def state(directory, name):
    return Ledger(directory, "tiny")[name]


def test_every_model_has_its_turn_once(tmp_path, capsys):
    ways = ({"eval.sample.steps": 5},)
    assert call(tmp_path, ["a", "b"], samplings=ways, fields={"eval.n": "9", "seed": "1"}) == {}
    found = calls(tmp_path)
    assert [(model, program) for model, program, *_ in found] == [
        *(("a", "train"), ("a", "evaluate"), ("a", "evaluate"), ("report", "report")),
        *(("b", "train"), ("b", "evaluate"), ("b", "evaluate"), ("report", "report")),
    ]
    train, everything, quality, report = found[:4]
    assert "--config.train.proxy_every=2" in train and "--config.seed=1" in train
    assert everything[-2:] == ["--tasks=all", "--config.eval.n=9"]  # no seed: eval.py takes what it finds in the run
    assert quality[-3:] == ["--tasks=quality,cost", "--config.eval.n=9", "--config.eval.sample.steps=5"]
    assert str(tmp_path / "a") in report and str(tmp_path / "b") not in report
    out = capsys.readouterr().out
    assert "step 20 of 20" in out and "fid1k_train 3, elbo 3 bits/dim" in out

    assert call(tmp_path, ["a", "b"], samplings=ways, fields={"eval.n": "9", "seed": "1"}) == {}
    assert runs(tmp_path) == []
    call(tmp_path, ["a", "b"], samplings=ways, fields={"eval.n": "8", "seed": "1"})  # another protocol
    assert runs(tmp_path) == [("a", "evaluate")] * 2 + [("b", "evaluate")] * 2
    (tmp_path / "b/results.json").unlink()
    call(tmp_path, ["a", "b"], fields={"eval.n": "8", "seed": "1"})
    assert runs(tmp_path) == [("b", "evaluate")]


def test_a_model_that_fails_does_not_lose_the_others(tmp_path, capsys):
    assert call(tmp_path, ["a", "broken", "b"]) == {"broken": "training: the loss is not finite"}
    found = calls(tmp_path)
    assert [model for model, program, *_ in found if program == "train"] == ["a", "broken", "b"]
    assert found[-1][1] == "report" and found[-1][-1] == "--remark=broken failed: training: the loss is not finite"
    assert "broken  failed" in capsys.readouterr().out
    assert "$ " in (tmp_path / "logs/broken.log").read_text()

    call(tmp_path, ["a", "broken", "b"])
    assert runs(tmp_path) == [("broken", "train")]
    ledger = Ledger(tmp_path, "tiny")
    ledger["b"].failed = "an old story"
    ledger.save()
    call(tmp_path, ["b"])
    assert state(tmp_path, "b").failed == ""
    report = calls(tmp_path)[-1]  # over all that the study has had
    assert str(tmp_path / "a") in report and str(tmp_path / "b") in report and report[-1].startswith("--remark=broken")


def test_a_run_that_is_gone_is_made_again(tmp_path):
    call(tmp_path, ["a"])
    shutil.rmtree(tmp_path / "a")
    call(tmp_path, ["a"])
    assert runs(tmp_path) == [("a", "train"), ("a", "evaluate")] * 2


def test_minutes_are_for_each_model_and_add_up(tmp_path):
    assert call(tmp_path, ["endless", "a"], minutes=SECOND) == {}
    assert runs(tmp_path) == [
        *(("rehearsal", "train"), ("endless", "train"), ("endless", "evaluate")),
        *(("rehearsal", "train"), ("a", "train"), ("a", "evaluate")),
    ]
    first, finished = state(tmp_path, "endless"), state(tmp_path, "a")
    assert 1 <= first.seconds < 4 and first.granted == pytest.approx(1) and first.trained == 0
    assert finished.trained == 20

    call(tmp_path, ["endless", "a"], minutes=first.seconds * SECOND)  # more for the one that has not come to its end
    assert runs(tmp_path) == [("endless", "train"), ("endless", "evaluate")]
    assert 1 + first.seconds <= state(tmp_path, "endless").seconds < 4 + first.seconds


def test_a_rehearsal_tells_how_many_steps_the_minutes_allow(tmp_path):
    call(tmp_path, ["endless"], minutes=SECOND, shares={"model.autoencoder_steps": 0.25})
    rehearsal, train, *_ = calls(tmp_path)
    assert "--config.train.proxy_every=1000000000" in rehearsal and not (tmp_path / "rehearsals/endless").exists()
    assert state(tmp_path, "endless").expected_steps == 100  # at 100 steps/s
    assert "--config.train.proxy_every=12" in train and "--config.model.autoencoder_steps=25" in train
    call(tmp_path, ["endless"], minutes=SECOND, shares={"model.autoencoder_steps": 0.25})
    assert "--config.model.autoencoder_steps=25" in calls(tmp_path)[0]  # else it would be another run


def test_the_rehearsal_knows_what_the_loop_says():
    assert "the first dispatch took {clock.restart():.1f} s" in (ROOT / "gm_jax/training/loop.py").read_text()
    assert conduct.FIRST_STEP.match("the first dispatch took 12.3 s, compilation included")[1] == "12.3"


class Impatient(View):
    """Ctrl-C as soon as some seconds of training are over."""

    @contextlib.contextmanager
    def working(self, name, stage, log):
        def show(seconds):
            if stage == "training" and seconds > 1:
                raise KeyboardInterrupt

        yield show


def test_interrupted_minutes_are_continued_not_added(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        call(tmp_path, ["endless"], minutes=2 * SECOND, view=Impatient(["endless"]))
    had = state(tmp_path, "endless")
    assert had.granted == 0 and conduct.newest_step(tmp_path / "endless")  # it has saved
    call(tmp_path, ["endless"], minutes=2 * SECOND)
    assert 2 <= state(tmp_path, "endless").seconds < 5
    assert runs(tmp_path) == [("rehearsal", "train"), ("endless", "train"), ("endless", "train"), ("endless", "evaluate")]


DRIVER = """
import pathlib, sys
sys.path.insert(0, {root!r})
from tests.test_study import call
call(pathlib.Path(sys.argv[1]), ["endless", "a"])
"""


def test_a_killed_study_leaves_nothing_that_gets_in_the_way(tmp_path):
    driver = subprocess.Popen([sys.executable, "-c", DRIVER.format(root=str(ROOT)), str(tmp_path)], stdout=subprocess.DEVNULL)
    log = tmp_path / "endless/metrics.jsonl"
    deadline = time.monotonic() + 60
    while not (log.is_file() and log.read_text()):
        assert time.monotonic() < deadline and driver.poll() is None
        time.sleep(0.05)
    with pytest.raises(InputError, match="another study is at work"), processes.alone_in(tmp_path):
        pass
    driver.kill()
    driver.wait()
    os.kill(int((tmp_path / ".process.lock").read_text()), 0)  # what it was doing goes on
    assert conduct.newest_step(tmp_path / "endless") is None
    with processes.alone_in(tmp_path):
        assert conduct.newest_step(tmp_path / "endless")  # it has saved


def test_a_process_is_stopped_at_its_limit_and_its_last_words_are_kept(tmp_path):
    code = "import signal, sys, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit('so be it'))\ntime.sleep(60)"
    with processes.alone_in(tmp_path) as lock:
        outcome = processes.run([sys.executable, "-c", code], tmp_path / "log", lock, limit=1.5)
        assert outcome.stopped and outcome.code == 1 and outcome.last_line == "so be it" and 1.5 <= outcome.seconds < 5
        outcome = processes.run([sys.executable, "-c", "import os; os.abort()"], tmp_path / "log", lock)
    assert not outcome.stopped and conduct.reason(outcome).startswith("died of SIGABRT")
    assert outcome.code == -signal.SIGABRT


# --- entries and the command line


@pytest.mark.parametrize("preset", entries.STUDIES)
def test_all_entries_name_configs_and_fields_that_exist(preset):
    found = entries.find("", preset)
    names = [entry.name for entry in found]
    first = ["vae", "vae-beta0.1", "vae-beta1", "vae-beta10", "mmd_vae", "vqvae", "ncsn", "ddpm"]
    assert [name for name in names if name in first] == first and names[:6] == first[:6]
    assert len(set(names)) == len(names)
    for entry in found:
        settings = entries.resolve(entry, {"data.dir": "/data"})
        assert settings.fields["data.dir"] == "/data" and settings.steps > 0
        for fields in (*entry.samplings, dict.fromkeys(entry.shares, 1)):
            entries.resolve(entry._replace(fields=fields), {})


def test_a_config_file_of_the_users_own_joins(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.py").write_text((ROOT / "configs/vae.py").read_text())
    own, small, known = entries.find("mine.py,mine.py:tiny,ddpm", "digits")
    assert (own.name, own.config, small.name, known.name) == ("mine", "mine.py:digits", "mine-tiny", "ddpm")
    assert entries.resolve(own, {"train.steps": "77"}).config == f"{tmp_path}/mine.py:digits"
    assert entries.resolve(own, {"train.steps": "77"}).steps == 77
    assert entries.resolve(known, {}).config == f"{ROOT}/configs/ddpm.py:digits"
    with pytest.raises(InputError, match="more than once"):
        entries.find("vae,vae", "digits")


def test_a_curve_has_its_points_however_short_the_run():
    settings = Settings("c.py:", {}, 4000, {"checkpoint_every": 1000, "log_every": 100})
    assert entries.spread(settings, 4000) == {"train.proxy_every": "500", "train.checkpoint_every": "500"}
    short = {"train.proxy_every": "10", "train.checkpoint_every": "10", "train.log_every": "1"}
    assert entries.spread(settings, 80) == short
    named = entries.spread(settings._replace(fields={"train.proxy_every": "0"}), 80)
    assert "train.proxy_every" not in named


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--preset=digit"], "'digits'"),
        (["--models=vea"], "'vae'"),
        (["--models=none.py"], "does not exist"),
        (["--minutes=0"], "'0' is not a positive number"),
        (["--minutes=soon"], "'soon' is not a positive number"),
        (["--n=0"], "whole number"),
        (["--config.train.stesp=3"], "'train.steps'"),
        (["--preset=digits", "--config.model.beta=2"], "model.beta"),  # DDPM has none
        (["--bogus"], "--bogus"),
    ],
)
def test_bad_flags_are_one_line(flags, words, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert study.main(flags) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1 and words in err
    assert list(tmp_path.iterdir()) == []


def test_a_directory_holds_one_study(tmp_path, capsys):
    Ledger(tmp_path, "digits").save()
    assert study.main(["--preset=tiny", "--models=vae", f"--workdir={tmp_path}"]) == 2
    assert "holds the study of preset digits" in capsys.readouterr().err
    (tmp_path / "study.json").write_text("{")
    assert study.main(["--preset=tiny", "--models=vae", f"--workdir={tmp_path}"]) == 2
    assert "damaged" in capsys.readouterr().err


def test_the_command_says_what_failed_and_where_to_read_of_it(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(conduct.Request, "__new__", broken_plan(conduct.Request.__new__))
    assert study.main(["--preset=tiny", "--models=vae", f"--workdir={tmp_path}"]) == 1
    out, err = capsys.readouterr()
    assert err == f"error: vae failed: training: exit code 3 (log: {tmp_path}/logs/vae.log)\n"
    assert out.splitlines()[-1] == "no report: no model has begun to train"


def broken_plan(new):
    failing = conduct.Commands(train=[sys.executable, "-c", "raise SystemExit(3)"])
    return lambda cls, *args: new(cls, *args, commands=failing)
