"""The lowest versions that pyproject.toml allows, as pip constraints: python tests/lowest.py > constraints-lowest.txt"""

import pathlib
import re
import tomllib

PYPROJECT = pathlib.Path(__file__).parents[1] / "pyproject.toml"


def lowest() -> list[str]:
    """One line a dependency: "jax==0.7.2". JAX's other half has the version of the first."""
    project = tomllib.loads(PYPROJECT.read_text())["project"]
    found = [re.match(r"([\w-]+)(?:\[\w+\])?>=([\d.]+)", line).groups() for line in project["dependencies"]]
    return [f"{name}=={version}" for name, version in found + [("jaxlib", dict(found)["jax"])]]


if __name__ == "__main__":
    print("\n".join(lowest()))
