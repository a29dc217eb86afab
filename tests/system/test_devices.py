"""What is asked of the C library."""

import os
import platform
import subprocess
import sys

import pytest

FAULTS = """
import resource
import jax, jax.numpy as jnp
from gm_jax.system.devices import keep_memory

keep_memory()
add = jax.jit(lambda x: x + 1)
x = jax.block_until_ready(jnp.zeros(2**24))  # 64 MB: beyond what glibc keeps by itself
counts = []
for _ in range(20):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    add(x).block_until_ready()
    counts.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
print(min(counts))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="needs glibc")
def test_memory_is_kept_between_steps():
    """Without it, all pages of the output fault every time; with it, only while the heap grows."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS], env=os.environ | {"JAX_PLATFORMS": "cpu"}, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 64 * 2**20 // 4096 / 20
