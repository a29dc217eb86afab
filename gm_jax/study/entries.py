"""Which models a study compares: plain data. A model more is an Entry more, or a config file named by --models."""

import pathlib
from collections.abc import Mapping
from typing import Any, NamedTuple

from gm_jax.cli.config import find_config, load_config, nearest, override
from gm_jax.errors import InputError

POINTS = 8  # of the curve of a metric over training
LOG_LINES = 50  # at least, of a run that its minutes cut short


class Entry(NamedTuple):
    """A model of a study: what train.py is given, and how its samples are drawn."""

    name: str  # of its work directory
    config: str  # NAME:PRESET, or FILE:PRESET
    fields: Mapping[str, Any] = {}  # of the config, where they differ from the preset
    samplings: tuple[Mapping[str, Any], ...] = ()  # further ways of sampling, fields of eval.sample, that quality is judged for
    shares: Mapping[str, float] = {}  # fields that are numbers of steps -> share of the steps that --minutes will allow


def _sweep(preset: str, **fields: Any) -> tuple[Entry, ...]:
    return tuple(Entry(f"vae-beta{beta:g}", f"vae:{preset}", {"model.beta": beta} | fields) for beta in (0.1, 1.0, 10.0))


def _ddim(*steps: int) -> tuple[Mapping[str, Any], ...]:
    return tuple({"eval.sample.sampler": "ddim", "eval.sample.steps": n} for n in steps)


# A little less than half, since measuring takes time too, and a prior that is never trained spoils all samples.
HALF = {"model.autoencoder_steps": 0.4}

# The ConvVAE as it is best, and the sweep over beta at a decoder variance where beta = 10 collapses (configs/vae.py says why).
STUDIES: dict[str, tuple[Entry, ...]] = {
    "cifar10": (
        Entry("vae", "vae:cifar10"),
        *_sweep("cifar10_sweep"),
        Entry("mmd_vae", "mmd_vae:cifar10"),
        Entry("vqvae", "vqvae:cifar10", shares=HALF),
        Entry(
            "ncsn",
            "ncsn:cifar10",
            # 100 network evaluations instead of the paper's 1000: with its epsilon, noise settles within 10 steps a level.
            # Averaged weights, which the paper lacks, are what a short run gains most from.
            {"eval.sample.inner_steps": 10, "optimizer.ema_decay": 0.999},
            ({"eval.sample.inner_steps": 3}, {"eval.sample.inner_steps": 30}),
        ),
        Entry(
            "ddpm",
            "ddpm:cifar10",
            # DDIM, since all 1000 steps cost more than a short run's training; and a warm-up that ends within such a run
            {"eval.sample.sampler": "ddim", "eval.sample.steps": 100, "optimizer.warmup_steps": 1000},
            _ddim(10, 25, 50),
        ),
    ),
    "digits": (
        Entry("vae", "vae:digits"),
        # 0.5, the preset's own, times beta = 0.1 would give the model above once more
        *_sweep("digits_sweep", **{"model.likelihood_variance": 0.4}),
        Entry("mmd_vae", "mmd_vae:digits"),
        Entry("vqvae", "vqvae:digits", shares=HALF),
        Entry("vqvae-transformer", "vqvae:digits_transformer", shares=HALF),
        Entry("vqvae2", "vqvae2:digits", shares=HALF),
        Entry(
            "ncsn",
            "ncsn:digits",
            samplings=({"eval.sample.inner_steps": 1, "eval.sample.epsilon": 1.07e-3}, *_ddim(20)),
        ),
        Entry("ddpm", "ddpm:digits", samplings=_ddim(10, 25, 50)),
        Entry("ddpm-improved", "ddpm:digits_improved"),
        Entry("edm", "edm:digits"),
        Entry("flow_matching", "flow_matching:digits"),
        Entry("flow_matching-ot", "flow_matching:digits_ot"),
        Entry("flow_matching-dit", "flow_matching:digits_dit"),
        Entry("flow_matching-uvit", "flow_matching:digits_uvit"),
        Entry("realnvp", "realnvp:digits"),
        Entry("glow", "glow:digits"),
        Entry("maf", "maf:digits"),
        Entry("gan", "gan:digits"),
        Entry("gan-wgan-gp", "gan:digits_wgan_gp"),
        Entry("stylegan2", "stylegan2:digits"),
        Entry("r3gan", "r3gan:digits"),
        Entry("score_sde", "score_sde:digits"),
        Entry("score_sde-sub_vp", "score_sde:digits_sub_vp"),
        Entry("score_sde-ve", "score_sde:digits_ve"),
        Entry("vdm", "vdm:digits"),
        Entry("vdvae", "vdvae:digits"),
        Entry("autoguided", "autoguided:digits", samplings=({"eval.sample.guidance_scale": 1.0},)),
        Entry("guided", "guided:digits", samplings=tuple({"eval.sample.guidance_scale": s} for s in (0.0, 3.0))),
        Entry("edm-conditional", "edm:digits_conditional", samplings=({"eval.sample.guidance_scale": 2.0},)),
        Entry("vae-conditional", "vae:digits_conditional"),
        Entry("ddpm-conditional", "ddpm:digits_conditional", samplings=({"eval.sample.guidance_scale": 2.0}, *_ddim(50))),
    ),
    "tiny": (
        Entry("vae", "vae:tiny"),
        *_sweep("tiny", **{"model.likelihood_variance": 0.5}),
        Entry("mmd_vae", "mmd_vae:tiny"),
        Entry("vqvae", "vqvae:tiny", shares=HALF),
        Entry("vqvae2", "vqvae2:tiny", shares=HALF),
        Entry("ncsn", "ncsn:tiny"),
        Entry("ddpm", "ddpm:tiny", samplings=_ddim(10)),
        Entry("edm", "edm:tiny"),
        Entry("flow_matching", "flow_matching:tiny"),
        Entry("gan", "gan:tiny"),
        Entry("stylegan2", "stylegan2:tiny"),
        Entry("score_sde", "score_sde:tiny"),
        Entry("vdm", "vdm:tiny"),
    ),
}


def find(models: str, preset: str) -> tuple[Entry, ...]:
    """The entries that `models` lists, separated by commas: names of the preset's own, or FILE[:PRESET]. Empty: all its own.

    Raises InputError for an unknown preset or name, and for names that repeat.
    """
    if preset not in STUDIES:
        raise InputError(f"unknown preset {preset!r}; the nearest known one is {nearest(preset, STUDIES)!r}")
    known = {entry.name: entry for entry in STUDIES[preset]}
    found = [_named(word, preset, known) for word in models.split(",")] if models else list(known.values())
    names = [entry.name for entry in found]
    repeated = next((name for name in names if names.count(name) > 1), None)
    if repeated:
        raise InputError(f"--models names {repeated} more than once; each needs a work directory of its own")
    return tuple(found)


def _named(word: str, preset: str, known: Mapping[str, Entry]) -> Entry:
    if word in known:
        return known[word]
    file, _, own_preset = word.partition(":")
    if not file.endswith(".py"):
        raise InputError(f"unknown model {word!r}; the nearest known one is {nearest(word, known)!r}; or name a config file")
    name = pathlib.Path(file).stem + (f"-{own_preset}" if own_preset else "")
    return Entry(name, f"{file}:{own_preset or preset}")


class Settings(NamedTuple):
    """An entry's config as far as the study needs it, and the fields that make it so."""

    config: str  # FILE:PRESET, the file by its absolute path
    fields: dict[str, str]  # as for the command line
    steps: int  # train.steps
    periods: dict[str, int]  # the config's own checkpoint_every and log_every


def resolve(entry: Entry, overrides: Mapping[str, str]) -> Settings:
    """Reads an entry's config file, or the shipped one that it names, and sets all fields.

    Raises InputError for whatever is wrong with the file or the fields.
    """
    file, _, preset = entry.config.partition(":")
    path = find_config(file)
    fields = {key: str(value) for key, value in entry.fields.items()} | dict(overrides)
    train = override(load_config(path, preset), fields)["train"]
    periods = {name: train[name] for name in ("checkpoint_every", "log_every")}
    return Settings(f"{path.resolve()}:{preset}", fields, train["steps"], periods)


def spread(settings: Settings, steps: int) -> dict[str, str]:
    """Periods that suit a run of so many steps: POINTS of the curve over training, and a checkpoint beside each at least.

    A run that its minutes cut short logs more often, too. Periods that the settings name stay as they are.
    """
    every = max(1, steps // POINTS)
    periods = {"train.proxy_every": every}
    if steps < settings.steps:
        periods["train.log_every"] = min(settings.periods["log_every"], max(1, steps // LOG_LINES))
    if settings.periods["checkpoint_every"]:
        periods["train.checkpoint_every"] = min(settings.periods["checkpoint_every"], every)
    return {key: str(value) for key, value in periods.items() if key not in settings.fields}
