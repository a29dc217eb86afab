"""The fields that every experiment has, and their defaults. A config starts from `base()` and overrides what its paper says."""

from collections.abc import Callable, Mapping
from difflib import get_close_matches

from ml_collections import ConfigDict

from gm_jax.errors import InputError


def base() -> ConfigDict:
    """The common fields. Only `model`, `eval.sample` and `eval.likelihood` take new keys; elsewhere they are errors."""
    config = ConfigDict(
        {
            "seed": 0,
            "parallel": "jit",  # jit: batch sharded over a mesh of all devices | fsdp: the train state, too | pmap
            "precision": "auto",  # compute dtype: float32 | bfloat16 | auto (bfloat16 on GPU and TPU)
            "profile": "",  # START:STOP: steps to trace, into WORKDIR/profile
            "data": {
                "name": "cifar10",  # cifar10 | mnist | digits | folder:/path | arrays:/path.npz
                "dir": "",  # where prepared or downloaded data lies; empty: the usual places
                "device_bytes": 2**31,  # a larger data set streams from the host
                "resize": 0,  # pixels, folder: only; 0 = off
                "flip": False,  # random horizontal flips
            },
            "model": {},  # name, and the keyword arguments of that model's make()
            "optimizer": {
                "name": "adam",
                "learning_rate": 2e-4,
                "b1": 0.9,
                "b2": 0.999,
                "eps": 1e-8,
                "weight_decay": 0.0,
                "warmup_steps": 0,  # linear from 0; 0 = off
                "schedule": "constant",  # after the warm-up
                "horizon": 0,  # steps over which the schedule runs; 0 = the objective's own window
                "clip_norm": 0.0,  # global gradient norm; 0 = off
                "ema_decay": 0.0,  # averaged parameters for evaluation; 0 = off
                "ema_warmup": True,  # smaller decay in the first steps
            },
            "train": {
                "steps": 100_000,  # optimizer steps in all; a rerun may raise it
                "batch_size": 128,  # global: over all devices, hosts and microbatches
                "accum": 1,  # microbatches per step
                # steps that run on the device between two visits of the host; 0 = 16, but 1 on a CPU, where loops are slow
                "steps_per_dispatch": 0,
                "log_every": 100,  # steps, as all "every" fields are
                "heldout_every": 1000,  # loss on test images; 0 = off
                "sample_every": 5000,  # grid of samples from fixed noise; 0 = off
                "samples": 64,  # images in that grid
                "checkpoint_every": 5000,  # the newest ones are kept
                "keep_every": 0,  # checkpoints kept for good, for curves; 0 = off
                "proxy_every": 0,  # distance of a few samples to the training images; 0 = off
                "proxy_n": 256,  # samples that it is measured on
                "init_from": "",  # parts of other runs to start from: "state/teacher=WORKDIR:ema,..."
            },
            "eval": {
                "n": 0,  # images; 0 = each task's own default
                "batch_size": 256,
                "extractor": "auto",  # auto | inception | inception768 ... | classifier | work directory of a classifier
                "inception": "",  # weights file; empty: the environment's GM_JAX_INCEPTION, or the download
                "reference": "train",  # split that samples are held against: train | test
                "sets": 1,  # of n samples each; metrics are then means over the sets
                "sample": {},  # options of the model's sampler, such as steps
                "likelihood": {},  # options of its likelihoods, such as full (ddpm) or samples (vae)
            },
        }
    )
    config.lock()
    config.model.unlock()
    config.eval.sample.unlock()
    config.eval.likelihood.unlock()
    return config


def with_preset(config: ConfigDict, preset: str, presets: Mapping[str, Callable[[ConfigDict], None]]) -> ConfigDict:
    """`config` after the preset's changes. Raises InputError for a preset that is not among `presets`."""
    if preset not in presets:
        nearest = get_close_matches(preset, presets, n=1)
        hint = f"did you mean {nearest[0]!r}? Known" if nearest else "known"
        raise InputError(f"unknown preset {preset!r}; {hint} presets: {', '.join(presets)}")
    presets[preset](config)
    return config
