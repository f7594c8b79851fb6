"""Score predictions against the truth: AP over IoU thresholds, image by image.

    python examples/04_evaluate_a_model.py --output example_output

AP = TP / (TP + FP + FN): objects matched one to one at an IoU threshold. The command line's
`dinoscope evaluate` does the same for folders of files.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np

from dinoscope import PredictOptions, load_model, run_prediction
from dinoscope.arrays.files import write_table
from dinoscope.arrays.metrics import AP_THRESHOLDS, average_precision
from dinoscope.datasets.synthetic import make


def main(output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    model = load_model("embedded", device="cpu")

    # The size of the objects is known here; without it the model estimates it, which takes longer.
    options = PredictOptions(diameter_px=22, device="cpu")
    kinds, scores = ["nuclei", "touching", "rods"], []
    for kind in kinds:
        made = make(kind, shape=(224, 224), seed=11, diameter=22)
        arrays, _, _, _ = run_prediction(made.as_input(), model, options)
        ap = average_precision(made.instances, arrays["instance"])
        scores.append(ap)
        print(f"{kind:10} AP@0.5 {ap[0]:.2f}, mean over IoU 0.5 to 0.95 {ap.mean():.2f}")

    table = {f"ap_{t:.2f}": np.array([s[i] for s in scores]) for i, t in enumerate(AP_THRESHOLDS)}
    write_table(output / "scores.csv", {"kind": np.array(kinds), **table})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("example_output"))
    main(parser.parse_args().output)
