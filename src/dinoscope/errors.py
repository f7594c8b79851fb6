"""One family of errors: what was wrong, what was received, what was expected, what to do.

Everything a user can cause raises a :class:`DinoscopeError`; its text is one readable line that the
command line prints as it is and the panels show as it is.
"""

from __future__ import annotations


class DinoscopeError(Exception):
    """Base of all errors that a user can understand and mend.

    Parameters
    ----------
    what : str
        What was wrong, in one clause, with the received value in it (``got 7``).
    expected : str, optional
        What would have been right.
    hint : str, optional
        What to do next.
    """

    def __init__(self, what: str, *, expected: str = "", hint: str = "") -> None:
        self.what = what
        self.expected = expected
        self.hint = hint
        parts = [what.rstrip(".")]
        if expected:
            parts.append(f"expected {expected.rstrip('.')}")
        text = "; ".join(parts) + "."
        super().__init__(f"{text} {hint}".strip())

    def __reduce__(self) -> tuple[object, ...]:
        # Keyword-only parts survive the trip through the worker's pipe.
        return (_rebuild, (type(self), self.what, self.expected, self.hint))


def _rebuild(kind: type[DinoscopeError], what: str, expected: str, hint: str) -> DinoscopeError:
    return kind(what, expected=expected, hint=hint)


class InputError(DinoscopeError, ValueError):
    """An image, a label array or an option has a value that cannot be used."""


class UsageError(DinoscopeError):
    """The request itself does not make sense (command line: exit status 2)."""


class AxesError(UsageError):
    """The axes of an image are unknown or contradict its shape."""


class MissingHeadError(UsageError):
    """A model was asked for a task that it has no head for."""


class ModelFileError(DinoscopeError):
    """A model file is truncated, foreign, tampered with, or does not fit its backbone."""


class MissingWeightsError(DinoscopeError):
    """Backbone weights are not on this disk (and nothing was downloaded)."""


class OutputError(DinoscopeError, OSError):
    """A result could not be written."""


class TrainingError(DinoscopeError):
    """Training cannot start or go on; the last good state was kept."""


class WorkerError(DinoscopeError):
    """The worker process stopped, or refused a request."""


class Cancelled(DinoscopeError):
    """The user cancelled; nothing was changed."""
