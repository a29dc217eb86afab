"""Tests run on one CPU device and keep their compiled programs in .jax_cache, for this process and for those it starts."""

import os
import pathlib

# Read by JAX when it is imported, which happens after this. The environment may ask for something else.
os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(pathlib.Path(__file__).parents[1] / ".jax_cache"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.5")
if "PYTEST_XDIST_WORKER" in os.environ:  # workers share the cores: one BLAS thread each
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
