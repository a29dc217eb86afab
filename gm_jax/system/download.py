"""Downloads of known files: checked by their digest, never half written, and quick to say that there is no network."""

import contextlib
import hashlib
import http.client
import os
import queue
import sys
import threading
import urllib.request
import uuid
from pathlib import Path

CONNECT_SECONDS = 5
READ_SECONDS = 30  # without a byte
CHUNK_BYTES = 1 << 20


def download(urls: list[str], path: Path, digest: str, algorithm: str = "md5") -> None:
    """Stores at `path` what the first address that works serves, which must have the given digest (md5, sha256 ...).

    `path` appears only complete.

    Raises:
      OSError: no address works, within 5 s each without network, or `path` cannot be written; the message says why.
    """
    failures = []
    for url in urls:
        part = path.with_name(f".{path.name}.{uuid.uuid4().hex}")  # unique: several processes may want the same file
        try:
            _store(url, part, digest, algorithm)
            os.replace(part, path)
            return
        except (OSError, http.client.HTTPException) as error:
            failures.append(f"{url}: {error or type(error).__name__}")
        finally:
            with contextlib.suppress(OSError):  # of a folder that cannot be had
                part.unlink()
    raise OSError("; ".join(failures))


def _store(url: str, path: Path, expected: str, algorithm: str) -> None:
    digest = hashlib.new(algorithm)
    with _connect(url) as response:
        path.parent.mkdir(parents=True, exist_ok=True)
        print(f"downloading {url} to {path.parent}", file=sys.stderr)
        with path.open("wb") as file:
            while chunk := response.read(CHUNK_BYTES):
                digest.update(chunk)
                file.write(chunk)
    if digest.hexdigest() != expected:
        raise OSError(f"served {path.stat().st_size} bytes of {algorithm} {digest.hexdigest()}, expected {expected}")


def _connect(url: str):
    """Opens `url` in a thread of its own, since a name server that does not answer blocks beyond any socket timeout."""
    answers = queue.SimpleQueue()

    def connect():
        try:
            answers.put(urllib.request.urlopen(url, timeout=READ_SECONDS))
        except Exception as error:
            answers.put(error)

    threading.Thread(target=connect, daemon=True).start()
    try:
        answer = answers.get(timeout=CONNECT_SECONDS)
    except queue.Empty:
        raise TimeoutError(f"no answer within {CONNECT_SECONDS} s") from None
    if isinstance(answer, Exception):
        raise answer
    return answer
