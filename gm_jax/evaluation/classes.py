"""Which of the data's classes the samples show: mode coverage where modes have names."""

from typing import Any

import numpy as np
from jaxtyping import Int, UInt8

from gm_jax.evaluation import extractors
from gm_jax.evaluation.context import Context
from gm_jax.metrics.classes import class_kl, classes_covered
from gm_jax.metrics.extractor import Extractor, extract


def has_classes(context: Context) -> bool:
    """Have the data labels, or channels that have some?"""
    data = context.dataset
    return getattr(data, "base", None) is not None or data.y_train is not None


def classes(context: Context) -> dict[str, Any]:
    """`classes_covered_N` and `class_kl_N`: how many classes a classifier finds among n samples, and the KL divergence of their
    shares from those of the training data, in nats; `_floor`: of n test images (as many as there are).

    Of stacked images each channel is classified by itself, and a class is a combination of labels, all equally probable.
    """
    data, base = context.dataset, context.dataset.base
    judging = context.judging if base is None else {**context.judging, "extractor": "classifier"}
    if judging["extractor"] == "auto":
        judging = {**judging, "extractor": "classifier"}
    extractor = extractors.choose(judging, base or data)
    num_classes = (base or data).num_classes
    channels = 1 if base is None else data.image_shape[-1]
    expected = np.bincount(data.y_train, minlength=num_classes) if base is None else np.ones(num_classes**channels)
    samples, _ = context.draw()
    real, _ = context.real("test", context.n)
    protocol = {"of": len(expected), "extractor": {"name": extractor.name, "digest": extractor.digest}}
    origin = {"n": len(real), "real": f"{data.name} test", "weights": None, "seed": None, "step": None}
    found = {}
    for x, end, more in ((samples, "", {}), (real, "_floor", origin)):
        shown = np.bincount(found_classes(x, extractor, num_classes, channels), minlength=len(expected))
        found[f"classes_covered_{context.n}{end}"] = {"value": classes_covered(shown)} | protocol | more
        found[f"class_kl_{context.n}{end}"] = {"value": class_kl(shown, expected)} | protocol | more
    return found


def found_classes(
    x: UInt8[np.ndarray, "n h w c"], extractor: Extractor, num_classes: int, channels: int
) -> Int[np.ndarray, " n"]:
    """The class of each image; with several channels, labels of the channels as the digits of one number."""
    parts = [x] if channels == 1 else [x[..., i : i + 1] for i in range(channels)]
    labels = [np.argmax(extract(extractor, part).logits, axis=1) for part in parts]
    return sum(label * num_classes ** (channels - 1 - i) for i, label in enumerate(labels))
