"""What may happen to a run (numbers that are not finite, devices, other processes), in words that say what to do."""

from collections.abc import Iterator
from contextlib import contextmanager

import jax

from gm_jax.core import Objective, PyTree
from gm_jax.errors import InputError
from gm_jax.training.learning import StepOutput, select_group
from gm_jax.training.memory import HINT

COMMUNICATION = ("gloo", "nccl", "coordination", "heartbeat", "barrier", "socket closed")  # in what is said of lost processes


class LostProcess(RuntimeError):
    """Another process of the run is gone. An orderly end would wait for it, so end at once."""


@contextmanager
def explained() -> Iterator[None]:
    """Turns what JAX raises where a device has no more memory into an InputError, where a process is gone into LostProcess."""
    try:
        yield
    except (jax.errors.JaxRuntimeError, ValueError) as error:  # gloo's come as either
        if isinstance(error, jax.errors.JaxRuntimeError) and "RESOURCE_EXHAUSTED" in str(error):
            raise InputError(f"a device ran out of memory: {HINT}") from error
        if jax.process_count() > 1 and any(word in str(error).lower() for word in COMMUNICATION):
            reason = str(error).partition("\n")[0][:200]
            raise LostProcess(
                f"another process of this run has ended, it seems ({reason}); start the same command on all hosts to resume"
            ) from error
        raise


def _term_order(term: str) -> tuple[bool, bool, str]:
    return (term == "grad_norm", term != "loss", term)  # the loss first, what follows from it last


def describe_failure(output: StepOutput, params: PyTree, objectives: tuple[Objective, ...]) -> str:
    """Names the terms and the first parameter whose loss or gradient was not finite in a failed step (host values)."""
    for objective in objectives:
        finite = output.finite.get(objective.name)
        if finite is None:
            continue
        leaves = jax.tree_util.tree_leaves_with_path(select_group(params, objective.group))
        prefix = "params" if objective.group is None else f"params[{objective.group!r}]"
        paths = [prefix + jax.tree_util.keystr(path) for path, _ in leaves]
        bad_paths = [path for path, ok in zip(paths, finite.grads, strict=True) if not ok]
        bad_terms = sorted((term for term, ok in finite.terms.items() if not ok), key=_term_order)
        if bad_terms or bad_paths:
            terms = ", ".join(f"{objective.name}/{term}" for term in bad_terms) or "no loss term"
            more = f" and {len(bad_paths) - 1} more" if len(bad_paths) > 1 else ""
            where = f"; gradient of {bad_paths[0]}{more}" if bad_paths else ""
            return f"non-finite: {terms}{where}"
    return "non-finite value"
