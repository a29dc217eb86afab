"""The fields that every experiment has: defaults, types and ranges. What a model's own are, its `make` says."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from gm_jax.settings import Count, Decay, Field, NonNegative, Positive, Seed, Whole, at_least

PERIOD = "steps; 0 = off"
SCHEDULE = "after the warm-up; exponential: by a factor of e over the horizon, and so on"

FIELDS: dict[str, Any] = {
    "seed": Field(0, Seed),
    "parallel": Field("jit", Literal["jit", "fsdp", "pmap"], "jit: the batch is split over all devices; fsdp: the state, too"),
    "precision": Field("auto", Literal["auto", "float32", "bfloat16"], "of activations; auto: bfloat16 on GPU and TPU"),
    "profile": Field("", str, "START:STOP: steps to trace, into WORKDIR/profile"),
    "data": {
        "name": Field(
            "cifar10",
            str,
            "cifar10, mnist, digits, binary_mnist, stacked_mnist, ring (and other toys), folder:/path, arrays:/path.npz",
        ),
        "dir": Field("", str, "where prepared or downloaded data lies; empty: the usual places"),
        "device_bytes": Field(2**31, Whole, "a larger data set streams from the host"),
        "resize": Field(0, Whole, "pixels, folder: only; 0 = off"),
        "flip": Field(False, bool, "random horizontal flips"),
    },
    "optimizer": {
        "name": Field("adam", Literal["adam", "rmsprop", "sgd"]),
        "learning_rate": Field(2e-4, NonNegative),
        "b1": Field(0.9, Decay, "of sgd: the momentum"),
        "b2": Field(0.999, Decay),
        "eps": Field(1e-8, Positive),
        "weight_decay": Field(0.0, NonNegative),
        "warmup_steps": Field(0, Whole, "steps of the run, linear from 0; 0 = off"),
        "schedule": Field("constant", Literal["constant", "linear", "cosine", "exponential"], SCHEDULE),
        "end_rate": Field(0.0, NonNegative, "learning rate at the end of the schedule"),
        "end_b2": Field(0.0, Decay, "of adam: b2 follows the schedule, too, and ends here; 0 = off"),
        "horizon": Field(0, Whole, "steps of the run over which the schedule goes; 0 = the objective's own window"),
        "clip_norm": Field(0.0, NonNegative, "global gradient norm; 0 = off"),
        "skip_norm": Field(0.0, NonNegative, "no update where the global gradient norm is so large or not finite; 0 = off"),
        "weight_clip": Field(0.0, NonNegative, "parameters stay within so much of 0 (WGAN's critic); 0 = off"),
        "ema_decay": Field(0.0, Decay, "averaged parameters for evaluation; 0 = off"),
        "ema_warmup": Field(True, bool, "smaller decay in the first steps"),
        "ema_ramp": Field(0.0, NonNegative, "instead: half-life at most this share of the steps so far; 0 = off"),
    },
    "train": {
        "steps": Field(100_000, Count, "optimizer steps in all; a rerun may raise it"),
        "batch_size": Field(128, Count, "global: over all devices, hosts and microbatches"),
        "accum": Field(1, Count, "microbatches a step"),
        "steps_per_dispatch": Field(0, Whole, "between two visits of the host; 0 = 16, but 1 on a CPU"),
        "log_every": Field(100, Count, "steps"),
        "heldout_every": Field(1000, Whole, f"loss on test images; {PERIOD}"),
        "sample_every": Field(5000, Whole, f"grid of samples from fixed noise; {PERIOD}"),
        "samples": Field(64, Count, "images in that grid"),
        "checkpoint_every": Field(5000, Whole, f"the newest ones are kept; {PERIOD}"),
        "keep_every": Field(0, Whole, f"checkpoints kept for good, for curves; {PERIOD}"),
        "proxy_every": Field(0, Whole, f"distance of a few samples to the training data; {PERIOD}"),
        "proxy_n": Field(256, Annotated[int, at_least(2)], "samples that it is measured on"),
        "init_from": Field("", str | Mapping, "parts of other runs to start from: state/teacher=WORKDIR:ema,..."),
    },
    "eval": {
        "n": Field(0, Whole, "images; 0 = each task's own default"),
        "batch_size": Field(256, Count),
        "extractor": Field("auto", str, "auto, inception, inception768 ..., classifier, work directory of a classifier"),
        "inception": Field("", str, "weights file; empty: the environment's GM_JAX_INCEPTION, or the download"),
        "reference": Field("train", Literal["train", "test"], "split that samples are held against"),
        "sets": Field(1, Count, "of n samples each; metrics are then means over the sets"),
        "labels": Field((), tuple[Whole, ...], "classes that a conditional model draws; empty: all, equally often"),
        "sample": Field({}, Mapping, "options of the model's sampler, such as steps"),
        "likelihood": Field({}, Mapping, "options of its likelihoods, such as full (ddpm) or samples (vae)"),
    },
}
OPEN = {"eval.sample": "steps", "eval.likelihood": "full"}  # sections checked by whoever uses them, with a key of each


def plain(fields: Mapping[str, Any] = FIELDS) -> dict[str, Any]:
    """The defaults as a nested dict, without a model."""
    return {name: _default(field) if isinstance(field, Field) else plain(field) for name, field in fields.items()}


def _default(field: Field) -> Any:
    return dict(field.default) if isinstance(field.default, Mapping) else field.default
