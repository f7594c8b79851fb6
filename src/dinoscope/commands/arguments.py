"""Flags made from the options in :mod:`dinoscope.config`: one default, range and help text each."""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, NoReturn, TypeVar

from dinoscope.config import OptionInfo, options_of
from dinoscope.errors import InputError, UsageError

Options = TypeVar("Options")

Subparsers = Any  # argparse keeps the type of add_subparsers() private


class LineParser(argparse.ArgumentParser):
    """An argument parser whose errors are one line on stderr."""

    def error(self, message: str) -> NoReturn:
        """Print `message` and leave with status 2."""
        self.exit(2, f"{self.prog}: error: {message}. See '{self.prog} --help'.\n")


def add_command(subparsers: Subparsers, name: str, summary: str, example: str) -> LineParser:
    """A sub-parser with the flags that every command has."""
    parser: LineParser = subparsers.add_parser(
        name,
        help=summary,
        description=summary,
        epilog=f"example:\n  {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("--json", action="store_true", help="Print one JSON document on stdout.")
    # SUPPRESS keeps a --debug given before the command's name.
    parser.add_argument(
        "--debug", action="store_true", default=argparse.SUPPRESS, help="Show tracebacks of errors."
    )
    return parser


def add_option(
    parser: argparse.ArgumentParser | argparse._ArgumentGroup,
    kind: type[Any],
    name: str,
    flag: str,
    convert: Callable[[str], Any] = str,
    metavar: str | None = None,
) -> None:
    """Add the flag for field `name` of the config class `kind`.

    A flag that is not given leaves no value behind, so that the default of the class holds.
    A boolean option becomes a switch that turns its default round.
    """
    info = options_of(kind)[name]
    default = next(f.default for f in dataclasses.fields(kind) if f.name == name)
    text = _help(info, default).replace("%", "%%")
    if isinstance(default, bool):
        parser.add_argument(
            flag,
            dest=name,
            action="store_const",
            const=not default,
            default=argparse.SUPPRESS,
            help=f"Do not {text[0].lower()}{text[1:]}" if default else text,
        )
        return
    parser.add_argument(
        flag,
        dest=name,
        type=convert,
        choices=info.choices,
        metavar=metavar,
        default=argparse.SUPPRESS,
        help=text,
    )


def _help(info: OptionInfo, default: object) -> str:
    facts = []
    if info.low is not None and info.high is not None:
        facts.append(f"{info.low:g} to {info.high:g} {info.unit}".strip())
    if default is not None and not isinstance(default, bool):
        facts.append(f"default {default}")
    return info.help + (f" ({'; '.join(facts)})" if facts else "")


def build(kind: type[Options], args: argparse.Namespace, **values: Any) -> Options:
    """Make a config object from the flags that were given, and `values` on top.

    Raises
    ------
    UsageError
        A value is out of range; the text names the option.
    """
    names = {f.name for f in dataclasses.fields(kind)}  # type: ignore[arg-type]
    given = {name: value for name, value in vars(args).items() if name in names}
    try:
        return kind(**{**given, **values})
    except InputError as error:
        raise UsageError(error.what, expected=error.expected, hint=error.hint) from None


def comma_list(text: str) -> tuple[str, ...]:
    """Split ``instance,depth``; empty parts are an error."""
    parts = tuple(part.strip() for part in text.split(","))
    if not all(parts):
        raise argparse.ArgumentTypeError(f"{text!r} has an empty part")
    return parts


def channel_list(text: str) -> tuple[int, ...]:
    """Channel numbers: ``0`` or ``0,2``."""
    try:
        numbers = tuple(int(part) for part in comma_list(text))
    except ValueError:
        numbers = (-1,)
    if min(numbers) < 0:
        raise argparse.ArgumentTypeError(
            f"got {text!r}, expected channel numbers from 0, as 0 or 0,2"
        )
    return numbers


def flatten(groups: Sequence[tuple[Any, ...]] | None) -> tuple[Any, ...]:
    """The values of a flag that may be repeated and may hold comma lists, each once, in order."""
    return tuple(dict.fromkeys(value for group in groups or () for value in group))


def axes_text(text: str) -> str:
    """Axis letters, in capitals."""
    return text.strip().upper()
