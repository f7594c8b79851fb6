"""The package as others get it: manifest, metadata, files that must travel with it."""

from __future__ import annotations

import os
import re
import tomllib
from importlib.metadata import distribution
from pathlib import Path
from typing import Any

import pytest

import dinoscope

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "dinoscope"


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)["project"]


def names(requirements: list[str]) -> set[str]:
    """Bare, lower-case names of requirement strings."""
    return {re.split(r"[\[<>=!~; ]", r, maxsplit=1)[0].lower() for r in requirements}


def test_manifest_on_top_is_the_one_in_the_package() -> None:
    top, real = ROOT / "napari.yaml", PACKAGE / "napari.yaml"
    assert real.is_file()
    assert not real.is_symlink(), (
        "the real file lies in the package: a link there breaks on Windows"
    )
    assert top.read_text(encoding="utf-8") == real.read_text(encoding="utf-8")


def test_samples_on_top_are_the_ones_in_the_package() -> None:
    on_top = {p.name: p for p in (ROOT / "sample_data").glob("*.tif")}
    packaged = {p.name: p for p in (PACKAGE / "sample_data").glob("*.tif")}
    assert packaged
    assert on_top.keys() == packaged.keys()
    for name, path in packaged.items():
        assert not path.is_symlink()
        assert on_top[name].read_bytes() == path.read_bytes()


def test_links_in_the_repository_are_relative_and_lead_somewhere() -> None:
    skip = {".git", ".venv"}
    for folder, folders, files in os.walk(ROOT):
        folders[:] = [f for f in folders if f not in skip]
        for path in (Path(folder) / name for name in [*folders, *files]):
            if path.is_symlink():
                assert not Path(os.readlink(path)).is_absolute(), path
                assert path.exists(), path


def test_npe2_finds_the_manifest_of_the_installed_distribution() -> None:
    from npe2 import PluginManifest

    manifest = PluginManifest.from_distribution("napari-dinoscope")
    assert manifest.name == "napari-dinoscope"
    assert {w.display_name for w in manifest.contributions.widgets or ()} >= {
        "Predict",
        "Fine-tune",
    }


def test_every_python_name_of_the_manifest_can_be_imported() -> None:
    from npe2 import PluginManifest

    PluginManifest.from_distribution("napari-dinoscope").validate_imports()


def test_no_qt_binding_and_no_upper_bound_is_required(project: dict[str, Any]) -> None:
    required = project["dependencies"]
    assert not names(required) & {"pyqt5", "pyqt6", "pyside2", "pyside6"}
    assert not [r for r in required if "[" in r], "extras of napari would pull in a Qt binding"
    napari = next(r for r in required if r.startswith("napari"))
    assert "<" not in napari
    assert "==" not in napari


def test_nothing_pins_an_index_or_a_lock() -> None:
    for name in ("pyproject.toml", "Makefile", "tools/setup-python.sh", ".ci/run"):
        text = (ROOT / name).read_text(encoding="utf-8")
        assert "index-url" not in text, name
        assert "http://" not in text, name
    assert not list(ROOT.glob("*.lock"))
    assert not list(ROOT.glob("requirements*.txt"))


def test_the_extras_are_those_the_readme_names(project: dict[str, Any]) -> None:
    extras = project["optional-dependencies"]
    assert extras.keys() == {"all", "export", "test"}
    assert names(extras["all"]) == {"napari", "onnx", "openvino", "onnxruntime", "umap-learn"}
    assert names(extras["export"]) == {"onnx", "onnxruntime"}


def test_everything_the_package_imports_is_declared(project: dict[str, Any]) -> None:
    """A library that is only there because another one brings it breaks when that one drops it."""
    import sys

    grimp = pytest.importorskip("grimp")
    graph = grimp.build_graph("dinoscope", include_external_packages=True)
    outside = (
        {m.split(".")[0] for m in graph.modules} - {"dinoscope"} - set(sys.stdlib_module_names)
    )
    distribution_of = {"PIL": "pillow", "skimage": "scikit-image", "sklearn": "scikit-learn"}
    declared = names(project["dependencies"]) | names(project["optional-dependencies"]["all"])
    # Brought by those we declare, and used only where they are there.
    through = {
        "certifi": "huggingface_hub",
        "triton": "torch",
        "npe2": "napari",
        "dask": "napari",
        "pandas": "napari",
    }
    undeclared = {
        name
        for name in outside
        if distribution_of.get(name, name) not in declared and through.get(name) not in declared
    }
    assert undeclared == set()


def test_version_is_said_once(project: dict[str, Any]) -> None:
    assert "version" in project["dynamic"]
    assert re.fullmatch(r"\d+\.\d+\.\d+", dinoscope.__version__)
    changelog = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert f"## {dinoscope.__version__}" in changelog
    citation = (ROOT / "CITATION.cff").read_text(encoding="utf-8")
    assert f"version: {dinoscope.__version__}" in citation


def test_the_command_is_installed() -> None:
    scripts = [e for e in distribution("napari-dinoscope").entry_points if e.name == "dinoscope"]
    assert [e.value for e in scripts] == ["dinoscope.cli:main"]


@pytest.mark.parametrize("name", dinoscope.__all__)
def test_public_names_resolve(name: str) -> None:
    assert getattr(dinoscope, name) is not None


def test_the_licence_names_the_developers() -> None:
    text = (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert text.startswith("BSD 3-Clause License")
    assert "The dinoscope developers" in text
