"""`record`: what was compared, as a line of JSON in the file that GM_JAX_PARITY names, if it names one."""

import json
import os
from collections.abc import Callable

import pytest

from tests.parity.comparison import Comparison, difference, peer


@pytest.fixture
def record() -> Callable[[Comparison], None]:
    """Computes both sides, writes down how far they are from one another, and asserts that it is within the tolerance."""

    def compare(comparison: Comparison) -> None:
        found = difference(comparison.ours(), comparison.theirs(), comparison.relative)
        package, version = peer(comparison)
        line = {
            "what": comparison.what,
            "package": package,
            "version": version,
            "function": comparison.function,
            "inputs": comparison.inputs,
            "difference": found,
            "tolerance": comparison.tolerance,
            "relative": comparison.relative,
        }
        if path := os.environ.get("GM_JAX_PARITY"):
            with open(path, "a") as file:
                file.write(json.dumps(line) + "\n")
        assert found <= comparison.tolerance, f"{comparison.what}: {found:.2g} > {comparison.tolerance:.2g}"

    return compare
