"""What goes wrong in training although all numbers are finite: a model's own symptoms, told once as long as they last."""

from collections.abc import Callable, Mapping


class Alarm:
    """Tells of a symptom when it stands in two log entries in a row, and no more until it has gone.

    The first entry alone means little: every game begins with a critic that wins.
    """

    def __init__(self, symptoms: Callable[[Mapping[str, float]], dict[str, str]] | None):
        self._symptoms = symptoms or (lambda values: {})
        self._last: set[str] = set()
        self._told: set[str] = set()

    def __call__(self, values: Mapping[str, float]) -> list[str]:
        """What is to be told after a log entry, a line each."""
        found = self._symptoms(values)
        lasting = self._last & set(found)
        new = [found[name] for name in found if name in lasting - self._told]
        self._last, self._told = set(found), lasting
        return new
