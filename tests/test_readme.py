"""README and guides say what is true: snippets run, commands parse, links lead somewhere."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")


def blocks(page: Path, language: str) -> list[str]:
    """Code blocks of one language."""
    found = FENCE.findall(page.read_text(encoding="utf-8"))
    return [code for kind, code in found if kind == language]


def commands() -> list[tuple[str, str]]:
    """Every ``dinoscope ...`` line of every page, with the page's name."""
    found = []
    for page in PAGES:
        for block in blocks(page, "bash"):
            for line in block.replace("\\\n", " ").splitlines():
                if line.startswith("dinoscope "):
                    found.append((page.name, line))
    return found


SNIPPETS = [(page.name, code) for page in PAGES for code in blocks(page, "python")]


@pytest.mark.parametrize(("page", "line"), commands())
def test_a_command_in_the_documentation_parses(page: str, line: str) -> None:
    from dinoscope.cli import build_parser

    arguments = shlex.split(line, comments=True)[1:]
    assert build_parser().parse_args(arguments).command == arguments[0]


@pytest.mark.parametrize("number", range(len(SNIPPETS)), ids=[page for page, _ in SNIPPETS])
def test_a_snippet_in_the_documentation_runs(
    number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import tifffile

    page, code = SNIPPETS[number]
    yy, xx = np.mgrid[:160, :160]
    cells = sum(np.exp(-((yy - y) ** 2 + (xx - x) ** 2) / 90) for y in (40, 110) for x in (45, 115))
    tifffile.imwrite(tmp_path / "cells.tif", (np.asarray(cells) * 200 + 20).astype(np.uint8))
    monkeypatch.chdir(tmp_path)
    exec(compile(code, page, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files_that_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    for target in LINK.findall(text):
        if target.startswith(("http://", "https://")):
            continue
        path, _, anchor = target.partition("#")
        linked = (page.parent / path).resolve() if path else page
        assert linked.exists(), f"{page.name} links to {target}"
        assert linked.is_relative_to(ROOT)
        if anchor:
            heads = re.findall(r"^#+ (.+)$", linked.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in heads}


def test_every_flag_is_documented() -> None:
    import argparse

    from dinoscope.cli import build_parser

    text = "".join(
        (ROOT / "docs" / n).read_text(encoding="utf-8") for n in ("cli.md", "fine-tuning.md")
    )
    subparsers = next(
        a for a in build_parser()._actions if isinstance(a, argparse._SubParsersAction)
    )
    for name, parser in subparsers.choices.items():
        assert f"dinoscope {name}" in text
        for action in parser._actions:
            for flag in action.option_strings:
                if flag.startswith("--") and flag != "--help":
                    assert re.search(rf"{flag}\b(?!-)", text), f"{name} {flag}"


def test_the_first_screen_of_the_readme_has_both_commands_and_the_install_lines() -> None:
    first = "\n".join((ROOT / "README.md").read_text(encoding="utf-8").splitlines()[:30])
    for needed in ("make demo", "make test", "pip install", "conda"):
        assert needed in first


def test_models_named_in_the_readme_are_known() -> None:
    from dinoscope.models.registry import BACKBONES

    text = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in BACKBONES:
        if name.startswith("dinov2"):
            size = name.removeprefix("dinov2_vit").removesuffix("_reg")
            assert size in text or name in text
