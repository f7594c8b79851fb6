"""A model file with a published backbone's architecture and random weights: for timing only.

python -m benchmarks.random_model dinov2_vits14 OUT.dinoscope
"""

from __future__ import annotations

import sys
from pathlib import Path

from dinoscope.models.checkpoint import save_model
from dinoscope.models.model import Model
from dinoscope.tasks.base import task


def main(backbone: str, path: Path) -> None:
    """Write the model, its backbone included."""
    heads = {"instance": task("instance").head_spec(())}
    model = Model.fresh(backbone, heads, name=f"random-{backbone}", diameter_px=28.0)
    save_model(model, path, include_backbone=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
