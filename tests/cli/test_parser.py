"""Flags of the command line: what is understood, and what is refused with status 2."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from dinoscope.cli import build_parser, main
from dinoscope.commands.arguments import build, channel_list, comma_list, flatten
from dinoscope.commands.predict import options_from
from dinoscope.commands.report import Report
from dinoscope.commands.train import Folders, exclude, pair_up, pair_validation
from dinoscope.config import InstanceOptions, PredictOptions, TrainOptions
from dinoscope.errors import UsageError

PREDICT = ["predict", "a.tif", "--task", "instance", "--output", "out"]
TRAIN = ["train", "--images", "i", "--labels", "l", "--task", "instance", "--output", "m.dinoscope"]


def parse(*argv: str) -> argparse.Namespace:
    return build_parser().parse_args(argv)


@pytest.mark.parametrize(
    "command",
    ["demo", "models", "predict", "train", "search", "evaluate", "explore", "heightmap", "improve"],
)
def test_every_command_explains_itself(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    shown = capsys.readouterr().out
    assert "--json" in shown
    assert "--debug" in shown
    assert f"dinoscope {command}" in shown


@pytest.mark.parametrize(
    "argv",
    [
        [],
        ["unknown"],
        [*PREDICT, "--no-such-flag"],
        [*PREDICT, "--device", "abacus"],
        [*PREDICT, "--diameter", "large"],
        [*PREDICT, "--channel", "red"],
        [*PREDICT, "--channel", "0,-2"],
        [*PREDICT, "--task", "instance,,depth"],
        ["predict", "a.tif", "--output", "out"],
        ["predict", "--task", "instance", "--output", "out"],
        [*TRAIN, "--task", "pca"],
        [*TRAIN, "--from", "a", "--backbone", "b"],
        [*TRAIN, "--lora-on", "moon"],
        ["evaluate", "--predictions", "p", "--truth", "t", "--task", "pca"],
        # An abbreviation that is unique today may be ambiguous tomorrow.
        [*PREDICT, "--diam", "20"],
    ],
)
def test_a_misspelt_request_is_one_line_and_status_2(
    argv: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(argv) == 2
    streams = capsys.readouterr()
    assert streams.out == ""
    assert streams.err.startswith("dinoscope")
    assert "error:" in streams.err
    assert streams.err.count("\n") == 1


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        (["--threshold", "1.5"], "threshold is 1.5"),
        (["--min-size", "-3"], "min_size_px is -3"),
        (["--diameter", "0"], "diameter_px is 0.0"),
        (["--pixel-size-um", "nan"], "pixel_size_um is nan"),
        (["--threads", "-1"], "threads is -1"),
        (["--task", "fly"], "fly"),
    ],
)
def test_a_value_out_of_range_is_named_with_status_2(
    flags: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*PREDICT, *flags]) == 2
    streams = capsys.readouterr()
    assert named in streams.err
    assert "expected" in streams.err
    assert streams.err.count("\n") == 1


def test_flags_that_are_not_given_leave_the_defaults_of_the_options() -> None:
    assert options_from(parse(*PREDICT)) == PredictOptions()
    assert build(TrainOptions, parse(*TRAIN)) == TrainOptions()


def test_flags_reach_the_options() -> None:
    options = options_from(
        parse(
            *("predict", "a.tif", "b.tif", "--output", "out", "--task", "instance,depth"),
            *("--task", "pca", "--channel", "2", "--channel", "0,1", "--diameter", "33"),
            *("--pixel-size-um", "0.5", "--device", "cpu", "--threads", "1", "--denoise"),
            *("--local-contrast", "--threshold", "0.4", "--min-size", "7", "--remove-border"),
            "--no-fill-holes",
        )
    )
    assert options == PredictOptions(
        tasks=("instance", "depth", "pca"),
        channels=(2, 0, 1),
        diameter_px=33.0,
        pixel_size_um=0.5,
        device="cpu",
        threads=1,
        denoise=True,
        local_contrast=True,
        instance=InstanceOptions(0.4, 7, remove_border=True, fill_holes=False),
    )


@pytest.mark.parametrize(
    ("flag", "text", "field", "value"),
    [
        ("--tune", "lora-all", "tune", "lora-all"),
        ("--lora-on", "both", "lora_on", "both"),
        ("--lora-rank", "16", "lora_rank", 16),
        ("--minutes", "2.5", "minutes", 2.5),
        ("--epochs", "3", "epochs", 3),
        ("--seed", "7", "seed", 7),
    ],
)
def test_training_flags_reach_the_options(flag: str, text: str, field: str, value: Any) -> None:
    assert getattr(build(TrainOptions, parse(*TRAIN, flag, text)), field) == value


def test_tune_that_is_not_understood_is_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TRAIN, "--tune", "lora-last:0"]) == 2
    assert "lora-last:K" in capsys.readouterr().err


def test_debug_may_stand_before_or_after_the_command() -> None:
    assert parse("--debug", *PREDICT).debug
    assert parse(*PREDICT, "--debug").debug
    assert not parse(*PREDICT).debug


def test_lists_keep_their_order_and_drop_repetitions() -> None:
    assert flatten([comma_list("depth,instance"), comma_list("depth")]) == ("depth", "instance")
    assert channel_list("3,1") == (3, 1)


def test_each_images_flag_begins_a_source_of_its_own() -> None:
    sources = pair_up(["i1", "i2"], ["l1", "l2"], ["instance", "depth"])
    assert [(s.images.name, s.labels.name, s.task) for s in sources] == [
        ("i1", "l1", "instance"),
        ("i2", "l2", "depth"),
    ]
    assert [s.task for s in pair_up(["i1", "i2"], ["l1", "l2"], ["depth"])] == ["depth", "depth"]


@pytest.mark.parametrize(
    ("labels", "tasks"), [(["l1"], ["instance"]), (["l1", "l2", "l3"], ["instance"] * 3)]
)
def test_sources_without_their_labels_are_refused(labels: list[str], tasks: list[str]) -> None:
    with pytest.raises(UsageError, match="2 --images"):
        pair_up(["i1", "i2"], labels, tasks)


def test_validation_folders_take_the_task_of_their_source() -> None:
    sources = pair_up(["i1", "i2"], ["l1", "l2"], ["instance", "depth"])
    assert [s.task for s in pair_validation(["a", "b"], ["c", "d"], sources)] == [
        "instance",
        "depth",
    ]
    assert pair_validation(None, None, sources) == []
    with pytest.raises(UsageError, match="1 --val-images and 0 --val-labels"):
        pair_validation(["a"], None, sources)
    with pytest.raises(UsageError, match="3 --val-images for 2 sources"):
        pair_validation(["a", "b", "c"], ["d", "e", "f"], sources)
    assert len(pair_validation(["a", "b"], ["c", "d"], sources[:1])) == 2


def test_exclude_drops_sources_by_the_name_of_a_folder_and_says_which() -> None:
    report = Report("train")
    sources = pair_up(
        ["data/dsb2018/images", "data/dsb2018b/images"],
        ["data/dsb2018/labels", "data/dsb2018b/labels"],
        ["instance"],
    )
    assert exclude(sources, ["DSB2018"], report) == sources[1:]
    assert "dsb2018/images" in report.notes[0]
    assert exclude(sources, ["elsewhere"], report) == sources
    assert "nothing" in report.notes[1]


def test_a_source_knows_the_folders_it_lies_in() -> None:
    names = Folders(Path("x/Set1/images"), Path("y/classes.csv"), "classification").names
    assert {"set1", "images", "y", "classes"} <= names


def test_help_is_quick() -> None:
    command = [sys.executable, "-m", "dinoscope", "--help"]
    subprocess.run(command, check=True, capture_output=True)
    spent = []
    for _ in range(3):
        before = os.times()
        subprocess.run(command, check=True, capture_output=True)
        after = os.times()
        spent.append(
            after.children_user
            - before.children_user
            + after.children_system
            - before.children_system
        )
    # Processor time, which a busy machine does not stretch. Measured 0.1 s; the bar is 0.3 s.
    assert min(spent) < 0.3
