"""What commands say: one JSON document on stdout, readable lines on stderr."""

from __future__ import annotations

import io
import json
import math
import pathlib
import subprocess
import sys
from typing import Any

import numpy as np
import pytest

from dinoscope.commands.report import Report, duration, error_text, plain
from dinoscope.errors import InputError


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def make(as_json: bool = False, live: bool = False, **more: Any) -> tuple[Report, Any, Any]:
    out, err = io.StringIO(), Terminal() if live else io.StringIO()
    return Report("test", as_json=as_json, out=out, err=err, **more), out, err


def test_json_is_one_document_and_nothing_else_goes_to_stdout() -> None:
    report, out, err = make(as_json=True)
    report.result("a line for readers")
    report.note("mind this")
    report.document["scores"] = {
        "ap50": np.float32(0.5),
        "rmse": math.nan,
        "path": pathlib.Path("a"),
    }
    report.document["ids"] = np.arange(3)
    report.error(InputError("it is wrong"), "x.tif")
    report.finish(1)
    document = json.loads(out.getvalue())
    assert document["scores"] == {"ap50": 0.5, "rmse": None, "path": "a"}
    assert document["ids"] == [0, 1, 2]
    assert document["notes"] == ["mind this"]
    assert document["errors"] == [
        {"type": "InputError", "message": "x.tif: it is wrong.", "image": "x.tif"}
    ]
    assert document["exit_status"] == 1
    assert "mind this" in err.getvalue()


def test_without_json_stdout_holds_the_results_alone() -> None:
    report, out, _ = make()
    report.result("done")
    report.note("mind this")
    report.finish(0)
    assert out.getvalue() == "done\n"


@pytest.mark.skipif(sys.platform == "win32", reason="pipes break in another way there")
def test_a_reader_that_has_had_enough_does_not_stop_the_work() -> None:
    code = "from dinoscope.cli import main; import sys; sys.exit(main(['models']))"
    done = subprocess.run(
        ["bash", "-c", f'"{sys.executable}" -c "{code}" | true; exit "${{PIPESTATUS[0]}}"'],
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_progress_on_a_terminal_rewrites_one_line_and_clears_it_for_text() -> None:
    report, _, err = make(live=True)
    report.progress("encode", 1, 4, 42.0, "tile 3")
    report.progress("encode", 4, 4)
    assert "encode 1/4, 42 s left, tile 3" in err.getvalue()
    assert "\n" not in err.getvalue()
    report.say("a line")
    assert err.getvalue().endswith("\r\x1b[2Ka line\n")


def test_progress_into_a_file_is_sparse(monkeypatch: pytest.MonkeyPatch) -> None:
    report, _, err = make()
    clock = [0.0]
    monkeypatch.setattr("dinoscope.commands.report.time.monotonic", lambda: clock[0])
    report._last = 0.0
    for step in range(300):
        clock[0] = step * 0.1
        report.progress("encode", step, 300)
    lines = err.getvalue().splitlines()
    assert 1 <= len(lines) <= 3
    assert all("\r" not in line for line in lines)


def test_an_unexpected_error_is_one_line_that_points_to_debug() -> None:
    report, _, err = make()
    report.error(KeyError("a\nb"))
    assert err.getvalue().splitlines() == [
        "dinoscope: error: unexpected KeyError: 'a\\nb'",
        "dinoscope: run again with --debug for the traceback.",
    ]


def test_debug_adds_the_traceback() -> None:
    report, _, err = make(debug=True)
    try:
        raise InputError("it is wrong")
    except InputError as error:
        report.error(error)
    assert "Traceback" in err.getvalue()
    assert "dinoscope: error: it is wrong." in err.getvalue()


def test_errors_of_the_system_name_their_file() -> None:
    assert (
        error_text(PermissionError(13, "Permission denied", "/x/y")) == "/x/y: Permission denied."
    )


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (59.4, "1 min 00 s"), (125, "2 min 05 s"), (7800, "2 h 10 min")],
)
def test_durations_read_well(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_plain_values_are_valid_json() -> None:
    value = {"a": (1, np.int64(2)), 3: {"inf": math.inf}, "flag": np.bool_(True), "set": {1}}
    assert plain(value) == {"a": [1, 2], "3": {"inf": None}, "flag": True, "set": [1]}
