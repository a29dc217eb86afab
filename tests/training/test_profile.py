"""The trace of a window of steps and what is read from it."""

import json

import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.training import loop, profile
from gm_jax.training.profile import Operation, Window
from tests.training.support import GAN, settings, write_points


@pytest.mark.parametrize("text", ["5", "5:", ":5", "5:5", "7:5", "-1:5", "a:b", "5:6:7"])
def test_a_window_that_is_none_is_refused(text):
    with pytest.raises(InputError, match="START:STOP"):
        profile.parse_window(text)


def test_a_window():
    assert profile.parse_window("") == (0, 0) and profile.parse_window("0:12") == Window(0, 12)


def test_busy_time_is_that_of_the_union():
    operations = [Operation("a", 3.0, 1.0), Operation("b", 0.0, 2.0), Operation("c", 0.5, 1.0), Operation("d", 1.5, 1.0)]
    assert profile.busy_seconds(operations) == pytest.approx(3.5)
    assert profile.busy_seconds([]) == 0


def test_a_summary_adds_up():
    operations = [Operation("conv", 10.0, 1.0), Operation("add", 11.0, 0.5), Operation("conv", 13.0, 1.0)]
    s = profile.summarize(operations, 2, step_flops=8.0, compiled_flops=6.0, matrix_rate=16.0)
    assert s.seconds == 4.0 and s.busy == pytest.approx(2.5 / 4)
    assert s.top == [("conv", 2.0, 0.8), ("add", 0.5, 0.2)]
    assert s.mfu == pytest.approx(8.0 * 2 / 4 / 16)
    text = profile.describe(s)
    assert "2 s per step, device busy 62.5%, host gaps 37.5%" in text and "25.0% of the measured matrix rate" in text
    unknown = profile.summarize(operations, 2, step_flops=float("inf"), compiled_flops=None, matrix_rate=16.0)
    assert unknown.mfu is None and unknown.step_flops is None and "matrix rate" not in profile.describe(unknown)
    silent = profile.summarize([], 2, step_flops=8.0, compiled_flops=None, matrix_rate=16.0)
    assert "names no operations" in profile.describe(silent)


def test_operations_are_named_by_where_they_come_from():
    program = """
      %fusion.3 = f32[2]{0} fusion(f32[2]{0} %p), kind=kLoop, calls=%c, metadata={op_name="jit(step)/jvp(Net)/Dense_0/add"}
      ROOT %dot.1 = f32[2]{0} dot(%a, %b), metadata={op_type="dot" op_name="jit(step)/dot_general" source_line=3}
    """
    assert profile.origins(program) == {"fusion.3": "jvp(Net)/Dense_0/add", "dot.1": "jit(step)/dot_general"}
    s = profile.summarize(
        [Operation("dot.1", 0, 1.0)], 1, step_flops=1.0, compiled_flops=None, matrix_rate=1.0, program=program
    )
    assert s.top[0][0] == "dot.1 jit(step)/dot_general"


@pytest.mark.parametrize(("window", "traced"), [("3:6", 3), ("6:100", 4)])
def test_a_run_traces_its_window(tmp_path, capsys, window, traced):
    """With three steps per dispatch, which must end where the window does; and where the run ends before the window."""
    config = settings(GAN, write_points(tmp_path), steps=10, steps_per_dispatch=3) | {"profile": window}
    loop.train(config, tmp_path / "run")
    summary = json.loads((tmp_path / "run/profile/summary.json").read_text())
    assert summary["steps"] == traced and summary["seconds"] > 0 and 0 < summary["busy"] <= 1
    assert any("dot" in name or "fusion" in name for name, _, _ in summary["top"])
    shares = np.array([share for _, _, share in summary["top"]])
    assert (np.diff(shares) <= 0).all() and 0 < shares.sum() <= 1 + 1e-9
    assert summary["step_flops"] > 0 and summary["mfu"] > 0
    assert f"profile of {traced} steps" in capsys.readouterr().out


def test_a_rerun_may_ask_for_another_window(tmp_path):
    config = settings(GAN, write_points(tmp_path), steps=4)
    loop.train(config, tmp_path / "run")
    assert not (tmp_path / "run/profile").exists()
    config["train"]["steps"] = 8
    loop.train(config | {"profile": "5:6"}, tmp_path / "run")
    assert json.loads((tmp_path / "run/profile/summary.json").read_text())["steps"] == 1
