"""Pictures of work directories, as parts of a page that needs no other file."""

import base64
import io
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageSequence

from gm_jax.errors import InputError
from gm_jax.report.runs import Reported

# file -> heading and what it shows, in the order of the page
KNOWN = {
    "samples.png": ("Samples", "Sample i has the same key in all runs of equal seed."),
    "neighbours.png": ("Nearest training images", "Samples beside the training images nearest to them: copies would show."),
    "reconstructions.png": ("Reconstructions", "A row of test images over the row of their reconstructions."),
    "interpolation.png": ("Interpolation", "Test images at both ends; between them, the straight line between their latents."),
    "completion.png": ("Completion", "A row is a test image, its upper half, and what the model draws below that half."),
    "denoising.png": ("From noise to image", "A row is a sample, time goes from left to right."),
}
FILMS = {"denoising.gif": "denoising.png"}  # animation -> the picture in whose section it stands


class Picture(NamedTuple):
    label: str  # of the run
    source: str  # data URI
    caption: str


class Film(NamedTuple):
    label: str
    source: str  # data URI of all frames, one above the other
    frames: int
    width: int
    height: int
    caption: str


class Section(NamedTuple):
    title: str
    text: str
    pictures: tuple[Picture, ...]
    films: tuple[Film, ...] = ()


def sections(runs: list[Reported]) -> list[Section]:
    """The pictures of all runs, those of a kind side by side; films over the strips that they animate."""
    names = dict.fromkeys(name for run in runs for name in run.pictures if name.endswith(".png"))
    films = [_film(run, name) for run in runs for name in run.pictures if name in FILMS]
    found = []
    for name in [*(name for name in KNOWN if name in names), *(name for name in names if name not in KNOWN)]:
        title, text = KNOWN.get(name, (Path(name).stem.replace("_", " ").capitalize(), ""))
        shown = [run for run in runs if name in run.pictures]
        seeds = {run.pictures[name].get("seed") for run in shown}
        text += " The seeds differ between runs." if len(seeds) > 1 else ""
        here = tuple(films) if name in FILMS.values() else ()
        found.append(Section(title, text, tuple(_picture(run, name) for run in shown), here))
    return found


def data_uri(data: bytes, kind: str) -> str:
    """A file as a URI that holds it."""
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"


def _picture(run: Reported, name: str) -> Picture:
    return Picture(run.label, data_uri(_read(run, name), "image/png"), _caption(run.pictures[name]))


def _film(run: Reported, name: str) -> Film:
    frames = decode(_read(run, name))
    buffer = io.BytesIO()
    Image.fromarray(frames.reshape(-1, *frames.shape[2:])).save(buffer, format="PNG", optimize=True)
    count, height, width = frames.shape[:3]
    return Film(run.label, data_uri(buffer.getvalue(), "image/png"), count, width, height, _caption(run.pictures[name]))


def decode(gif: bytes) -> UInt8[np.ndarray, "frame height width ..."]:
    """The frames of an animation, grey if all of them are, without magnification."""
    with Image.open(io.BytesIO(gif)) as image:
        frames = np.stack([np.asarray(frame.convert("RGB")) for frame in ImageSequence.Iterator(image)])
    if (frames == frames[..., :1]).all():
        frames = frames[..., 0]
    scales = range(min(frames.shape[1:3]), 0, -1)
    return next(small for scale in scales if (small := _shrink(frames, scale)) is not None)


def _shrink(frames: np.ndarray, scale: int) -> np.ndarray | None:
    """The frames without their magnification by `scale`; None if that is not how they were made."""
    if frames.shape[1] % scale or frames.shape[2] % scale:
        return None
    small = frames[:, ::scale, ::scale]
    return small if np.array_equal(small.repeat(scale, axis=1).repeat(scale, axis=2), frames) else None


def _read(run: Reported, name: str) -> bytes:
    try:
        return (run.workdir / name).read_bytes()
    except OSError as error:
        raise InputError(
            f"cannot read {run.workdir / name} ({error.strerror}), which results.json names; draw it again by eval.py"
        ) from error


def _caption(entry: dict[str, Any]) -> str:
    """How a picture was made, in few words."""
    options = [f"{key}={value}" for key, value in entry.get("sampling", {}).items()]
    parts = [f"{key} {entry[key]}" for key in ("seed", "step") if entry.get(key) is not None]
    parts += [f"NFE {entry['nfe']}"] if "nfe" in entry else []
    return ", ".join([*parts, *([entry["weights"]] if entry.get("weights") else []), *options])
