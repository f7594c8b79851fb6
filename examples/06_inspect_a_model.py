"""Look inside a model: its card, its parameters, and the tokens it makes of an image.

python examples/06_inspect_a_model.py --output example_output
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from dinoscope import load_model
from dinoscope.datasets.synthetic import make
from dinoscope.models.checkpoint import list_models
from dinoscope.models.device import import_torch


def main(output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    for entry in list_models():
        tasks = ", ".join(entry["tasks"]) or "features"
        print(f"{entry['name']:22} {'ready' if entry['available'] else 'to download':12} {tasks}")

    model = load_model("embedded", device="cpu")
    (output / "embedded_card.json").write_text(json.dumps(model.card.to_json(), indent=2))
    parameters = sum(p.numel() for p in model.parameters())
    print(f"{parameters / 1e6:.1f} million parameters, patches of {model.backbone.patch} pixels")

    # Pixels go in as (B, 3, Y, X) in about [0, 1]; sides are multiples of the patch.
    torch = import_torch()
    made = make("nuclei", shape=(224, 224), seed=2, diameter=20)
    pixels = np.repeat(made.image[:1], 3, 0)[None]
    with torch.inference_mode():
        features = model.encode(torch.from_numpy(pixels))
    tokens = features.last[0].flatten(1).T  # (patches, dimensions) of the last block
    print(f"tokens {tuple(tokens.shape)}, mean norm {tokens.norm(dim=1).mean():.2f}")

    # Patches on nuclei look more like each other than like the background.
    cells = made.instances.reshape(16, 14, 16, 14).astype(bool).mean((1, 3)).ravel() > 0.5
    unit = torch.nn.functional.normalize(tokens - tokens.mean(0), dim=1).numpy()
    within, across = unit[cells] @ unit[cells].T, unit[cells] @ unit[~cells].T
    print(f"cosine of tokens: nucleus with nucleus {within.mean():.2f}")
    print(f"                  nucleus with background {across.mean():.2f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("example_output"))
    main(parser.parse_args().output)
