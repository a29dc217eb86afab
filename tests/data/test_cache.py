"""Where files are kept that can be made again."""

import os
import sys
from pathlib import Path

import pytest

from gm_jax.data import tfds
from gm_jax.data.sources import load
from gm_jax.errors import InputError
from gm_jax.system import cache
from gm_jax.system.cache import cache_dir
from tests.data.support import error_line


@pytest.fixture(autouse=True)
def environment(monkeypatch, tmp_path):
    for name in ("GM_JAX_CACHE", "XDG_CACHE_HOME", "TFDS_DATA_DIR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


@pytest.fixture
def nobody(monkeypatch):
    """A user of whom neither HOME nor the password database knows a home folder."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000)
    assert os.path.expanduser("~") == "~"
    with pytest.raises(RuntimeError):
        Path.home()


def test_the_variables_count_in_their_order(monkeypatch, tmp_path):
    assert cache_dir("inception") == tmp_path / "home/.cache/gm_jax/inception"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert cache_dir() == tmp_path / "home/.cache/gm_jax"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_dir("a", "b") == tmp_path / "xdg/gm_jax/a/b"
    monkeypatch.setenv("GM_JAX_CACHE", str(tmp_path / "mine"))
    assert cache_dir("a") == tmp_path / "mine/a"
    monkeypatch.setenv("GM_JAX_CACHE", "~/mine")
    assert cache_dir("a") == tmp_path / "home/mine/a"
    assert list(tmp_path.iterdir()) == [], "asking makes no folders"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no password database")
def test_without_a_home_the_variable_is_named_and_helps(monkeypatch, tmp_path, nobody):
    with pytest.raises(InputError, match="no home folder.* set GM_JAX_CACHE to a folder"):
        cache_dir("inception")
    monkeypatch.setenv("GM_JAX_CACHE", str(tmp_path / "mine"))
    assert cache_dir("inception") == tmp_path / "mine/inception"


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no password database")
def test_without_a_home_paths_with_a_tilde_are_not_there(nobody):
    assert tfds.default_dir() == Path("~/tensorflow_datasets")
    assert "no folder ~/images" in error_line("folder:~/images")
    assert "no file ~/a.npz" in error_line("arrays:~/a.npz")
    assert load("digits").name == "digits"


def test_a_home_of_somebody_else_is_none(monkeypatch, tmp_path):
    (tmp_path / "home").mkdir()
    monkeypatch.setattr(cache.os, "access", lambda path, mode: Path(path) != tmp_path / "home")  # root may write anywhere
    with pytest.raises(InputError, match="home/.cache/gm_jax cannot be made.* set GM_JAX_CACHE"):
        cache_dir()
    (tmp_path / "home/.cache/gm_jax").mkdir(parents=True)
    assert cache_dir("a") == tmp_path / "home/.cache/gm_jax/a", "what is there may be read"


def test_a_file_in_the_way_is_told(monkeypatch, tmp_path):
    (tmp_path / "file").touch()
    monkeypatch.setenv("GM_JAX_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.raises(InputError, match="file/cache cannot be made"):
        cache_dir()
