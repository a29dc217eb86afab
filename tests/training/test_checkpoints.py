"""Checkpoints: what was saved comes back or is known to be damaged; a full disk and a damaged file are one clear line."""

import json
import os
import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import pytest

from gm_jax.cli import train_main
from gm_jax.errors import InputError
from gm_jax.training import checkpoints as checkpoints_module
from gm_jax.training import loop
from gm_jax.training.checkpoints import Checkpoints, checksums
from tests.training.support import BATCHNORM, ROOT, assert_identical, leaves, listing, settings, train, write_points

SHARDING = jax.sharding.SingleDeviceSharding(jax.devices()[0])


def make_state(seed):
    return {
        "weights": jax.random.normal(jax.random.key(seed), (50, 40)),
        "half": jnp.arange(seed, seed + 3, dtype=jnp.bfloat16),
        "count": jnp.int32(seed),
        "key": jax.random.key(seed),
    }


ABSTRACT = jax.eval_shape(lambda: make_state(0))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved")
    with Checkpoints(folder) as checkpoints:
        for step in (10, 20):
            checkpoints.save(step, make_state(step))
    return folder


@pytest.fixture
def workdir(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def restored_count(workdir):
    with Checkpoints(workdir) as checkpoints:
        state = checkpoints.restore(ABSTRACT, SHARDING)
    assert_equal(state, make_state(int(state["count"])))
    return int(state["count"])


def assert_equal(a, b):
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = (jax.random.key_data(v) if jnp.issubdtype(v.dtype, jax.dtypes.prng_key) else v for v in (x, y))
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def largest_file(folder):
    return max((path for path in folder.rglob("*") if path.is_file()), key=lambda path: path.stat().st_size)


def flip_bits(path):
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 8] = bytes(byte ^ 0x5A for byte in content[middle : middle + 8])
    path.write_bytes(content)


DAMAGE = {
    "garbled": lambda step: flip_bits(largest_file(step)),
    "cut": lambda step: os.truncate(largest_file(step), largest_file(step).stat().st_size // 2),
    "empty": lambda step: largest_file(step).write_bytes(b""),
    "lost": lambda step: largest_file(step).unlink(),
    "no index": lambda step: (step / "arrays/manifest.ocdbt").unlink(),
    "garbled structure": lambda step: flip_bits(step / "arrays/_METADATA"),
    "empty structure": lambda step: (step / "arrays/_METADATA").write_bytes(b""),
    "no item": lambda step: shutil.rmtree(step / "arrays"),
    "nothing in it": lambda step: [shutil.rmtree(step), step.mkdir()],
}


def test_every_kind_of_leaf_comes_back(workdir):
    assert restored_count(workdir) == 20


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_checkpoint_is_passed_over_and_set_aside(workdir, capfd, damage):
    DAMAGE[damage](workdir / "checkpoints/20")
    assert restored_count(workdir) == 10
    out, err = capfd.readouterr()
    assert out.startswith("checkpoint 20 is damaged (") and out.endswith("); falling back to 10\n") and out.count("\n") == 1
    assert err == ""
    with Checkpoints(workdir) as checkpoints:
        assert checkpoints.steps() == [10]
        checkpoints.save(20, make_state(21))
    assert restored_count(workdir) == 21
    assert len(list((workdir / "damaged_checkpoints").iterdir())) == 1


def test_reading_alone_repairs_nothing(workdir, capsys):
    flip_bits(largest_file(workdir / "checkpoints/20"))
    before = listing(workdir)
    with Checkpoints(workdir) as checkpoints:
        state = checkpoints.restore(ABSTRACT, SHARDING, repair=False)
    assert state["count"] == 10 and "checkpoint 20 is damaged" in capsys.readouterr().out
    assert listing(workdir) == before


def test_if_all_are_damaged_nothing_is_deleted(workdir):
    for step in (10, 20):
        flip_bits(largest_file(workdir / f"checkpoints/{step}"))
    before = listing(workdir)
    with Checkpoints(workdir) as checkpoints, pytest.raises(InputError, match="no checkpoint .* can be read") as raised:
        checkpoints.restore(ABSTRACT, SHARDING)
    assert listing(workdir) == before and "\n" not in str(raised.value)


def test_the_newest_are_kept_and_some_for_good(tmp_path):
    with Checkpoints(tmp_path, keep=2, keep_every=30) as checkpoints:
        assert checkpoints.restore(ABSTRACT, SHARDING) is None and not (tmp_path / "checkpoints").exists()
        for step in range(10, 80, 10):
            checkpoints.save(step, {"a": jnp.int32(step)})
        checkpoints.wait()
        assert checkpoints.steps() == [30, 60, 70]


def test_checksums_tell_where_states_differ():
    a, b = make_state(1), make_state(1)
    b["weights"] = b["weights"].at[7, 7].add(1e-6)
    names = sorted(a)  # the order of the leaves
    assert [name for name, x, y in zip(names, checksums(a), checksums(b), strict=True) if x != y] == ["weights"]


def test_a_full_disk_is_told_and_harms_no_earlier_checkpoint(tmp_path, monkeypatch, capsys):
    config = settings(BATCHNORM, write_points(tmp_path), steps=10, checkpoint_every=5)
    earlier = train(config, tmp_path / "run")
    config["train"]["steps"] = 20
    full = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr(checkpoints_module.shutil, "disk_usage", lambda path: full)
    (tmp_path / "config.json").write_text(json.dumps(config))
    flags = ["--config", f"{ROOT}/tests/training/worker.py:{tmp_path}/config.json", "--workdir", f"{tmp_path}/run"]
    assert train_main(flags) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: no space for a checkpoint of ") and err.count("\n") == 1
    monkeypatch.undo()
    assert_identical(leaves(tmp_path / "run"), earlier)
    train(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("text", "kind"),
    [
        ("RESOURCE_EXHAUSTED: Failed to write 16 bytes to file 4: No space left on device [os_error_code='28']", InputError),
        ("RESOURCE_EXHAUSTED: Failed to write 16 bytes to file 4: Disk quota exceeded", InputError),
        ("RESOURCE_EXHAUSTED: Out of memory while trying to allocate 16 bytes", ValueError),
    ],
)
def test_a_disk_that_fills_up_during_a_save_is_told_from_other_failures(tmp_path, monkeypatch, text, kind):
    def fail(*_, **__):
        raise ValueError(text)

    monkeypatch.setattr(ocp.CheckpointManager, "wait_until_finished", fail)
    checkpoints = Checkpoints(tmp_path)
    with pytest.raises(ValueError) as raised:
        checkpoints.wait()
    assert type(raised.value) is kind and ("no space left in" in str(raised.value)) is (kind is InputError)


def test_a_run_goes_on_from_the_checkpoint_before_a_damaged_one(tmp_path, capsys):
    wide = BATCHNORM | {"width": 2000}  # large enough for files of numbers alone
    config = settings(wide, write_points(tmp_path), steps=20, log_every=5, checkpoint_every=10)
    unbroken = train(config, tmp_path / "run")
    log = (tmp_path / "run/metrics.jsonl").read_text().count("\n")
    flip_bits(largest_file(tmp_path / "run/checkpoints/20"))
    loop.train(config, tmp_path / "run")
    out = capsys.readouterr().out
    assert re.search(r"^checkpoint 20 is damaged \(.*\); falling back to 10$", out, re.MULTILINE)
    assert "resuming at step 10\n" in out
    assert_identical(leaves(tmp_path / "run"), unbroken)
    assert (tmp_path / "run/metrics.jsonl").read_text().count("\n") == log == 4
