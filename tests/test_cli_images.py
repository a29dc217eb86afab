"""`eval.py --images A --reference B`: one JSON object as the last line of stdout, and no flag that silently does nothing."""

import json
import sys
import types

import pytest

import gm_jax.evaluation
from gm_jax import cli
from gm_jax.errors import InputError

FOUND = {"fid1k_train": {"value": 2.5, "n": 1000, "images": {"name": "a.npz", "digest": "12ab"}}}


@pytest.fixture
def judge(tmp_path, monkeypatch):
    """Calls eval_main in an empty directory; `judge.calls` is what reached the comparison, whose result is FOUND."""
    monkeypatch.chdir(tmp_path)
    calls = []

    def compare(images, reference, settings, data_dir, stage):
        calls.append((images, reference, settings, data_dir))
        stage(f"features of {images}")(1000, 1000)
        return FOUND

    module = types.SimpleNamespace(compare=compare)
    monkeypatch.setitem(sys.modules, "gm_jax.evaluation.compare", module)
    monkeypatch.setattr(gm_jax.evaluation, "compare", module, raising=False)

    def run(*flags):
        return cli.eval_main(list(flags))

    run.calls, run.module = calls, module
    return run


def test_the_json_is_the_last_line_and_the_content_of_out(judge, capsys, tmp_path):
    assert judge("--images=a.npz", "--reference", "cifar10:train", "--out=new/judged.json") == 0
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1]) == FOUND
    assert json.loads((tmp_path / "new/judged.json").read_text()) == FOUND
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["judged.json"]
    assert "features of a.npz: 1000 in" in err  # progress keeps off stdout


def test_settings_reach_the_comparison(judge):
    flags = ["--config.eval.inception=w.npz", "--config.eval.extractor=inception768", "--config.data.dir=/d"]
    assert judge("--images=a", "--reference=b.npz", *flags) == 0
    [(images, reference, settings, data_dir)] = judge.calls
    assert (images, reference, data_dir) == ("a", "b.npz", "/d")
    assert {"inception": "w.npz", "extractor": "inception768"}.items() <= settings.items()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--images=a"], ["--images", "--reference"]),
        (["--reference=b"], ["--images", "--reference"]),
        (["--images=a", "--reference=b", "--workdir=runs/x"], ["--workdir", "--images", "exclude"]),
        (["--images=a", "--reference=b", "--tasks=samples"], ["--tasks", "no bearing"]),
        (["--images=a", "--reference=b", "--n=3"], ["--n", "no bearing"]),
        (["--images=a", "--reference=b", "--weights=raw"], ["--weights", "no bearing"]),
        (["--images=a", "--reference=b", "--config.eval.sets=3"], ["config.eval.sets", "eval.extractor", "data.dir"]),
        (["--images=a", "--reference=b", "--config.eval.extracter=3"], ["'eval.extracter'", "'eval.extractor'"]),
        (["--images=a", "--reference=b", "--out=."], ["--out=.", "folder"]),
        (["--images=a", "--refrence=b"], ["--refrence", "--reference"]),
    ],
)
def test_bad_flags_are_one_line(judge, flags, words, capsys, tmp_path):
    assert judge(*flags) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.count("\n") == 1
    assert [word for word in words if word not in err] == []
    assert judge.calls == [] and list(tmp_path.iterdir()) == []


def test_what_the_comparison_refuses_leaves_no_file(judge, capsys, tmp_path):
    def refuse(*args):
        raise InputError("a holds 1 images; a distribution needs at least 2")

    judge.module.compare = refuse
    assert judge("--images=a", "--reference=b", "--out=judged.json") == 2
    assert capsys.readouterr() == ("", "error: a holds 1 images; a distribution needs at least 2\n")
    assert list(tmp_path.iterdir()) == []
