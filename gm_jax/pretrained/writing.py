"""From a checkpoint to a work directory, which holds what train.py would have left there.

Parameters and their average are the published weights. The optimizer is fresh: who trains on begins with empty moments.
"""

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp

from gm_jax.build import resolve
from gm_jax.errors import InputError
from gm_jax.metrics.inception_weights import sha256
from gm_jax.pretrained import formats
from gm_jax.pretrained.loading import Checkpoint, understand
from gm_jax.system import provenance
from gm_jax.training import learning, workdirs
from gm_jax.training.checkpoints import Checkpoints
from gm_jax.training.run import prepare, record_of
from gm_jax.training.watch import nobody


class Source(NamedTuple):
    """Where a checkpoint comes from."""

    path: Path  # of the file or folder on this machine
    address: str  # as it is recorded
    licence: str = ""  # empty: that of what its code's authors published


def write(source: Source, workdir: Path, overrides: Mapping[str, str] | None = None) -> Checkpoint:
    """Writes the work directory; config.json, last, says source, sha256 and licence.

    `overrides`: fields of the config, as text. Needs the data that it is to be evaluated on, as train.py does. Raises
    InputError where the checkpoint cannot be imported, its data cannot be had, or `workdir` is in use.
    """
    if (workdir / "config.json").exists():
        raise InputError(f"{workdir} holds a run already; choose another --out")
    content = formats.read(source.path)
    checkpoint = understand(content, overrides)
    run = prepare(checkpoint.config, workdir, None, nobody)
    workdirs.check(workdir, record_of(run, {}), resolve)
    if run.dataset.image_shape != checkpoint.image_shape:
        shapes = ("x".join(map(str, shape)) for shape in (checkpoint.image_shape, run.dataset.image_shape))
        raise InputError("the checkpoint is of images of {}, data.name has images of {}; give its data".format(*shapes))
    variables = checkpoint.variables(run.abstract)
    state = jax.jit(partial(learning.with_variables, run.model, run.optimizers))(variables)
    with Checkpoints(workdir) as checkpoints:
        checkpoints.save(checkpoint.step, state._replace(step=jnp.int32(checkpoint.step)))
        checkpoints.wait()
    origin = {
        "source": source.address,
        "file": content.file.name,
        "sha256": sha256(content.file),
        "licence": source.licence or f"{checkpoint.licence}, if these are the weights of the authors of {checkpoint.code}",
        "code": checkpoint.code,
        "weights": checkpoint.weights,
        "step": checkpoint.step,
        "digest": provenance.digest(variables.params),
    }
    workdirs.write(workdir, record_of(run, {"params": origin}))
    return checkpoint
