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


class MissingLibraryError(UsageError, ImportError):
    """An optional library is not installed.

    Parameters
    ----------
    library : str
        What is missing.
    extra : str
        The extra of this package that brings it.
    purpose : str
        What it is needed for.
    """

    def __init__(self, library: str, extra: str, purpose: str) -> None:
        self.library, self.extra, self.purpose = library, extra, purpose
        super().__init__(
            f"{purpose} needs {library}, which is not installed",
            hint=f"Install it with pip install 'napari-dinoscope[{extra}]'.",
        )

    def __reduce__(self) -> tuple[object, ...]:
        return (MissingLibraryError, (self.library, self.extra, self.purpose))


class DeviceError(DinoscopeError):
    """The graphics card failed in the middle of a run, or its memory does not suffice."""


class OutputError(DinoscopeError, OSError):
    """A result could not be written."""


class TrainingError(DinoscopeError):
    """Training cannot start or go on; the last good state was kept."""


class WorkerError(DinoscopeError):
    """The worker process stopped, or refused a request."""


class Cancelled(DinoscopeError):
    """The user cancelled; nothing was changed."""
