"""study.json: what each model of a study has had and done, so that the same command goes on where it was."""

import dataclasses
import json
import pathlib
from typing import Any

from gm_jax.errors import InputError

FILE = "study.json"


@dataclasses.dataclass
class State:
    """Of one model. The ledger writes it down whenever it is asked to."""

    seconds: float = 0.0  # of its training processes, compilation included
    granted: float = 0.0  # seconds of the --minutes of former, completed calls
    expected_steps: int = 0  # that its first --minutes were expected to allow; 0: none was cut short
    fields: dict[str, str] = dataclasses.field(default_factory=dict)  # that were set from expected_steps
    trained: int = 0  # train.steps of the run that ended; 0: none has
    evaluated: list[dict[str, Any]] = dataclasses.field(default_factory=list)  # what eval.py was asked for, and at which step
    failed: str = ""  # why, in one line


class Ledger:
    """The states of a study's models by name, in `directory`/study.json."""

    def __init__(self, directory: pathlib.Path, preset: str):
        """Raises InputError where the directory holds the study of another preset, or a damaged file."""
        self._path, self._preset = directory / FILE, preset
        self._states: dict[str, State] = {}
        try:
            content = json.loads(self._path.read_text())
            self._states = {name: State(**state) for name, state in content["models"].items()}
            found = content["preset"]
        except FileNotFoundError:
            return
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise InputError(f"{self._path} is damaged ({error}); restore it, or choose another --workdir") from error
        if found != preset:
            raise InputError(f"{directory} holds the study of preset {found}, not {preset}; choose another --workdir")

    def __getitem__(self, name: str) -> State:
        return self._states.setdefault(name, State())

    def names(self) -> list[str]:
        """Of all models that the study has had."""
        return list(self._states)

    def save(self) -> None:
        from gm_jax.images import write_atomically  # here: it loads JAX

        models = {name: dataclasses.asdict(state) for name, state in self._states.items()}
        write_atomically(self._path, (json.dumps({"preset": self._preset, "models": models}, indent=1) + "\n").encode())
