"""What is installed: every package, with the configs inside; and the lowest versions that are tested."""

import pathlib
import tomllib

import pytest

from gm_jax.cli.config import shipped_configs
from tests.lowest import lowest

ROOT = pathlib.Path(__file__).parents[1]
SETUP = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_every_package_is_listed():
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "gm_jax").rglob("__init__.py")}
    names = {".".join(folder.parts) for folder in folders} | {"gm_jax.configs"}
    assert set(SETUP["tool"]["setuptools"]["packages"]) == names


def test_configs_need_nothing_but_the_package():
    """They are shipped within it, where no top-level `configs` is."""
    for path in shipped_configs().glob("*.py"):
        assert "import configs" not in path.read_text() and "from configs" not in path.read_text()


@pytest.mark.parametrize("line", SETUP["project"]["dependencies"], ids=lambda line: line.split(">")[0])
def test_every_dependency_has_a_lower_bound_that_is_tested(line):
    name, _, rest = line.partition(">=")
    assert rest and f"{name}=={rest.partition(';')[0].strip()}" in lowest()
