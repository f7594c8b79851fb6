"""Build the wheel, install it alone into an empty folder, and see that it holds what it must.

Run inside the project's environment: the wheel's dependencies are taken from there.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
WEIGHTS = ("embedded", "embedded-redcells", "embedded-cellcycle")
#: What the project's own wheel may weigh; the embedded weights may take 30 MB of it.
LARGEST_MB = 45


class WheelProblem(Exception):
    """The wheel is not what should be published."""


def build(into: Path) -> Path:
    """Build the wheel of this tree with the build backend that is installed here."""
    run(
        [
            sys.executable,
            "-m",
            "build",
            "--wheel",
            "--no-isolation",
            "--outdir",
            str(into),
            str(ROOT),
        ]
    )
    wheels = sorted(into.glob("*.whl"))
    if len(wheels) != 1:
        raise WheelProblem(f"expected one wheel, got {[w.name for w in wheels]}")
    return wheels[0]


def check_contents(wheel: Path) -> None:
    """Manifest, type marker, weights and samples are files of the package, and nothing else is."""
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    needed = {"dinoscope/napari.yaml", "dinoscope/py.typed"}
    needed |= {f"dinoscope/weights/{name}.dinoscope" for name in WEIGHTS}
    samples = ROOT / "src" / "dinoscope" / "sample_data"
    needed |= {f"dinoscope/sample_data/{p.name}" for p in samples.iterdir() if p.suffix == ".tif"}
    if not any(name.startswith("dinoscope/sample_data/") for name in needed):
        raise WheelProblem(f"there are no samples in {samples}")
    missing = sorted(needed - names)
    if missing:
        raise WheelProblem("the wheel lacks " + ", ".join(missing))
    strangers = sorted({n.split("/")[0] for n in names if not n.startswith("dinoscope/")})
    if [n for n in strangers if not n.endswith(".dist-info")]:
        raise WheelProblem(f"the wheel installs more than the package: {strangers}")
    size_mb = wheel.stat().st_size / 1e6
    if size_mb > LARGEST_MB:
        raise WheelProblem(f"the wheel weighs {size_mb:.0f} MB, expected at most {LARGEST_MB}")
    print(f"{wheel.name}: {len(names)} files, {size_mb:.1f} MB")


def check_installed(wheel: Path, target: Path) -> None:
    """The command line runs from the installed files, not from this tree."""
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(target)]
    run([*pip, str(wheel)])
    where = run_installed(target, "-c", "import dinoscope; print(dinoscope.__file__)").strip()
    if not Path(where).resolve().is_relative_to(target.resolve()):
        raise WheelProblem(f"dinoscope was imported from {where}, expected from {target}")
    models = json.loads(run_installed(target, "-m", "dinoscope.cli", "models", "--json"))
    listed = json.dumps(models)
    missing = [name for name in WEIGHTS if f'"{name}"' not in listed]
    if missing:
        raise WheelProblem(f"`dinoscope models` does not list {', '.join(missing)}")
    print("`dinoscope models` works from the installed wheel")


def run_installed(target: Path, *arguments: str) -> str:
    """Run Python with the installed wheel first on its path, outside this tree."""
    environment = os.environ | {"PYTHONPATH": str(target), "HF_HUB_OFFLINE": "1"}
    return run([sys.executable, *arguments], cwd=target, env=environment)


def run(command: list[str], **options: object) -> str:
    """Run a command and return what it printed; its words are shown when it fails."""
    done = subprocess.run(command, capture_output=True, text=True, **options)  # type: ignore[call-overload]
    if done.returncode:
        raise WheelProblem(f"{' '.join(command)} failed:\n{done.stdout}\n{done.stderr}".strip())
    return str(done.stdout)


def main() -> int:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        try:
            wheel = build(folder / "dist")
            check_contents(wheel)
            check_installed(wheel, folder / "installed")
        except WheelProblem as problem:
            print(f"check_wheel: {problem}", file=sys.stderr)
            return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
