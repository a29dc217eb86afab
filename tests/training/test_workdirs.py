"""A work directory belongs to one run: another one, foreign files and damaged records are refused, and nothing is written."""

import json
import shutil

import numpy as np
import pytest

from gm_jax.errors import InputError
from gm_jax.system import provenance
from gm_jax.system.locks import locked
from gm_jax.training import loop, workdirs
from tests.training.support import BATCHNORM, assert_identical, leaves, listing, metrics, settings, train, write_points


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A finished run of six steps, and its config."""
    folder = tmp_path_factory.mktemp("runs")
    config = settings(BATCHNORM | {"width": 8}, write_points(folder), steps=6, log_every=3)
    loop.train(config, folder / "run")
    return config, folder / "run"


def changed(config, section, **fields):
    return {**config, section: {**config[section], **fields}}


def refusal(config, workdir):
    """The one line with which the run is refused; nothing may have been written."""
    before = listing(workdir.parent)
    with pytest.raises(InputError) as raised:
        loop.train(config, workdir)
    assert listing(workdir.parent) == before and "\n" not in str(raised.value)
    return str(raised.value)


def test_another_config_is_refused_by_its_first_differing_field(run):
    config, workdir = run
    message = refusal(changed(config, "optimizer", learning_rate=0.5), workdir)
    assert "optimizer.learning_rate is 0.001 there and 0.5 here;" in message
    both = changed(changed(config, "optimizer", learning_rate=0.5), "train", batch_size=32)
    assert "optimizer.learning_rate is 0.001 there and 0.5 here and 1 more;" in refusal(both, workdir)
    assert "model.width is 8 there and 16 here" in refusal({**config, "model": dict(BATCHNORM)}, workdir)
    assert "seed is 0 there and 1 here" in refusal({**config, "seed": 1}, workdir)


def test_other_data_are_refused(run, tmp_path):
    config, workdir = run
    digits = changed(config, "data", name="digits")
    assert "data.name is 'arrays' there and 'digits' here" in refusal(digits, workdir)
    other = workdirs.read(workdir)._replace(train_images=99)  # the same file with other content
    message = r"100 examples of shape \(1, 1, 2\), the data now has 99 of \(1, 1, 2\)"
    with pytest.raises(InputError, match=message):
        workdirs.check(workdir, other)


def test_what_may_differ(run):
    config, workdir = run
    free = changed(config, "train", log_every=1, heldout_every=2, sample_every=0, checkpoint_every=1, keep_every=3)
    free = changed(changed(free, "data", device_bytes=0, dir="/elsewhere"), "eval", n=3) | {"parallel": "pmap"}
    assert workdirs.check(workdir, workdirs.read(workdir)._replace(config=free))


def test_tuples_and_lists_are_the_same_config(run):
    config, workdir = run
    record = workdirs.read(workdir)._replace(config=changed(config, "model", shape=(1, 2)))
    workdirs.write(workdir.parent / "other", record)
    assert workdirs.check(workdir.parent / "other", record)


def test_foreign_files_are_refused(run, tmp_path):
    config, _ = run
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis/chapter1.tex").write_text("dear")
    assert "holds files (chapter1.tex) but no config.json, so it is not a work directory" in refusal(
        config, tmp_path / "thesis"
    )
    assert "is a file; choose another --workdir" in refusal(config, tmp_path / "thesis/chapter1.tex")


def test_an_empty_directory_is_taken(run, tmp_path):
    config, workdir = run
    (tmp_path / "new").mkdir()
    assert_identical(train(config, tmp_path / "new"), leaves(workdir))


@pytest.mark.parametrize("content", ["", "{}", '{"config": 3}', '{"config": {}, "data": {}, "init_from": {}}'])
def test_a_damaged_record_is_refused(run, tmp_path, content):
    config, _ = run
    (tmp_path / "run").mkdir()
    (tmp_path / "run/config.json").write_text(content)
    assert "config.json is damaged" in refusal(config, tmp_path / "run")


def test_more_steps_may_be_asked_for_and_fewer_change_nothing(tmp_path, capsys):
    config = settings(BATCHNORM, write_points(tmp_path), steps=6, log_every=3)
    loop.train(config, tmp_path / "run")
    longer = changed(config, "train", steps=12)
    assert_identical(train(longer, tmp_path / "run"), train(longer, tmp_path / "unbroken"))
    assert json.loads((tmp_path / "run/config.json").read_text())["config"]["train"]["steps"] == 12
    log, before = metrics(tmp_path / "run"), listing(tmp_path / "run")
    capsys.readouterr()
    loop.train(config, tmp_path / "run")
    assert "nothing to do: 12 of 6 steps were made already\n" in capsys.readouterr().out
    assert metrics(tmp_path / "run") == log
    assert listing(tmp_path / "run") == before


def test_reading_says_where_there_is_no_run(tmp_path):
    with pytest.raises(InputError, match="holds no run"):
        workdirs.read(tmp_path)


def test_the_digest_depends_on_paths_and_values():
    tree = {"a": [1.0, 2.0], "b": [3.0]}
    same, renamed, other = dict(tree), {"a": [1.0, 2.0], "c": [3.0]}, {"a": [1.0, 2.5], "b": [3.0]}
    assert provenance.digest(tree) == provenance.digest(same)
    assert len({provenance.digest(t) for t in (tree, renamed, other)}) == 3


def test_a_second_process_in_the_same_directory_ends_at_once(run, tmp_path):
    config, workdir = run
    shutil.copytree(workdir, tmp_path / "run")
    before = leaves(tmp_path / "run")
    with locked(tmp_path / "run/.lock"), pytest.raises(InputError, match="another process trains in .*run; wait for it"):
        train(config | {"train": config["train"] | {"steps": 9}}, tmp_path / "run")
    assert_identical(leaves(tmp_path / "run"), before)
    assert not (tmp_path / "new").exists()
    with pytest.raises(InputError):
        train(config | {"train": config["train"] | {"init_from": "params=nowhere:ema"}}, tmp_path / "new")
    assert not (tmp_path / "new").exists()  # a refused run leaves no lock behind


def test_a_scheduler_may_have_written_its_logs_there(run, tmp_path):
    config, workdir = run
    (tmp_path / "run").mkdir()
    (tmp_path / "run/slurm-17.out").write_text("hello")
    assert_identical(train(config, tmp_path / "run"), leaves(workdir))


def test_data_are_held_to_their_content_and_not_to_their_path(tmp_path):
    config = settings(BATCHNORM, write_points(tmp_path), steps=2)
    train(config, tmp_path / "run")
    assert workdirs.read(tmp_path / "run").config["data"]["name"] == f"arrays:{(tmp_path / 'points.npz').absolute()}"
    (tmp_path / "moved").mkdir()
    moved = shutil.copy(tmp_path / "points.npz", tmp_path / "moved/other.npz")
    longer = config | {"data": config["data"] | {"name": f"arrays:{moved}"}, "train": config["train"] | {"steps": 3}}
    train(longer, tmp_path / "run")
    with np.load(moved) as data:
        np.savez(tmp_path / "changed.npz", x_train=data["x_train"], x_test=data["x_test"][::-1])
    changed = longer | {"data": config["data"] | {"name": f"arrays:{tmp_path / 'changed.npz'}"}}
    assert "was trained on other data of the same size" in refusal(changed, tmp_path / "run")
