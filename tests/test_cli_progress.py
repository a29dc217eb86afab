"""The progress line says what, how far, how fast and how long; and it goes when the work does."""

import io

import pytest
from rich.console import Console

from gm_jax.cli.progress import Stages


class Clock:
    """A clock that the test sets."""

    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def plain(clock):
    return Stages(Console(file=io.StringIO(), soft_wrap=True), clock)


def written(stages):
    return stages._console.file.getvalue()


def test_elsewhere_than_on_a_terminal_a_line_as_a_stage_begins_and_one_as_it_ends(clock):
    with plain(clock) as stages:
        progress = stages.stage("samples [64]")
        clock.now = 10.0
        progress(16, 64)
        clock.now = 12.5
        progress(64, 64)
    assert written(stages) == "samples [64] ...\nsamples [64]: 64 in 12.5 s\n"


def test_a_stage_may_have_several_rounds(clock):
    with plain(clock) as stages:
        progress = stages.stage("likelihood")
        clock.now = 2.0
        progress(8, 8)
        clock.now = 3.0
        progress(4, 10)
        clock.now = 7.0
        progress(10, 10)
    assert written(stages).splitlines()[1::2] == ["likelihood: 8 in 2.0 s", "likelihood: 10 in 4.0 s"]


def terminal(clock):
    return Stages(Console(file=io.StringIO(), force_terminal=True, width=120, color_system=None), clock)


def test_on_a_terminal_speed_and_eta_leave_the_first_batch_out(clock):
    with terminal(clock) as stages:
        progress = stages.stage("features of cifar10 train")
        clock.now = 60.0  # compilation
        progress(100, 1000)
        clock.now = 64.0
        progress(300, 1000)  # 50/s
        stages._bar.refresh()
    shown = written(stages)
    assert all(words in shown for words in ("features of cifar10 train", "30%", "50/s", "ETA 0:00:14"))


def test_a_new_stage_ends_the_one_before_and_leaving_ends_all(clock):
    with terminal(clock) as stages:
        stages.stage("first")(1, 2)
        first = stages._bar
        stages.stage("second")(1, 2)
        second = stages._bar
        assert not first.live.is_started
    assert not second.live.is_started and stages._bar is None


def test_an_interruption_removes_the_bar(clock):
    stages = terminal(clock)
    with pytest.raises(KeyboardInterrupt), stages:
        stages.stage("first")(1, 2)
        bar = stages._bar
        raise KeyboardInterrupt
    assert not bar.live.is_started
