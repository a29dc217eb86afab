"""Published checkpoints by name: where they are, and under which licence."""

import http.client
import os
import sys
import urllib.request
import uuid
from pathlib import Path
from typing import NamedTuple

from gm_jax.errors import InputError
from gm_jax.system.cache import cache_dir

SECONDS = 30  # without a byte
CHUNK_BYTES = 1 << 20


class Published(NamedTuple):
    """Files at one address. The last is the one with the weights."""

    address: str
    files: tuple[str, ...]
    licence: str
    what: str


def _edm(name: str, what: str) -> Published:
    address = "https://nvlabs-fi-cdn.nvidia.com/edm/pretrained"
    return Published(address, (f"{name}.pkl",), "CC BY-NC-SA 4.0", f"EDM, {what}")


def _torchcfm(name: str, what: str) -> Published:
    address = "https://github.com/atong01/conditional-flow-matching/releases/download/1.0.4"
    return Published(address, (f"{name}_cifar10_weights_step_400000.pt",), "MIT", what)


NAMES: dict[str, Published] = {
    "google/ddpm-cifar10-32": Published(
        "https://huggingface.co/google/ddpm-cifar10-32/resolve/main",
        ("config.json", "diffusion_pytorch_model.safetensors"),
        "Apache-2.0",
        "DDPM",
    ),
    "edm-cifar10-32x32-uncond-vp": _edm("edm-cifar10-32x32-uncond-vp", "DDPM++"),
    "edm-cifar10-32x32-uncond-ve": _edm("edm-cifar10-32x32-uncond-ve", "NCSN++"),
    "edm-cifar10-32x32-cond-vp": _edm("edm-cifar10-32x32-cond-vp", "DDPM++, told the class"),
    "edm-cifar10-32x32-cond-ve": _edm("edm-cifar10-32x32-cond-ve", "NCSN++, told the class"),
    "edm_cifar10_ema": Published(
        "https://openaipublic.blob.core.windows.net/consistency/jcm_checkpoints",
        ("edm_cifar10_ema",),
        "Apache-2.0",
        "EDM, NCSN++",
    ),
    "icfm-cifar10": _torchcfm("cfm", "flow matching"),
    "otcfm-cifar10": _torchcfm("otcfm", "flow matching, optimal transport"),
    "fm-cifar10": _torchcfm("fm", "flow matching of Lipman et al."),
}


def fetch(name: str) -> Path:
    """The file, or the folder of the files, of that name: from the cache, else downloaded into it.

    Their digests are not published, and so not checked: that of the weights is recorded. Raises InputError where a download
    fails; it says which file to fetch by other means.
    """
    published = NAMES[name]
    folder = cache_dir("pretrained", *name.split("/"))
    for file in published.files:
        if not (folder / file).is_file():
            _download(f"{published.address}/{file}", folder / file)
    return folder if len(published.files) > 1 else folder / published.files[0]


def _download(url: str, path: Path) -> None:
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")
    try:
        with urllib.request.urlopen(url, timeout=SECONDS) as response:
            path.parent.mkdir(parents=True, exist_ok=True)
            print(f"downloading {url} to {path.parent}", file=sys.stderr)
            with part.open("wb") as file:
                while chunk := response.read(CHUNK_BYTES):
                    file.write(chunk)
        if left := getattr(response, "length", None):
            raise OSError(f"{left} bytes never came")
        os.replace(part, path)
    except (OSError, http.client.HTTPException) as error:
        raise InputError(f"cannot download {url} ({error}); fetch it by other means, and give its path instead") from error
    finally:
        part.unlink(missing_ok=True)
