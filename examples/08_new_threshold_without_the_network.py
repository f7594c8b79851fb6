"""Change threshold and size rules after a run: objects are made again from the kept maps.

python examples/08_new_threshold_without_the_network.py --output example_output
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

from dinoscope import InstanceOptions, PlaneOutput, PredictOptions, load_model, predict
from dinoscope.arrays.decode import decode_instances
from dinoscope.arrays.files import write_image
from dinoscope.datasets.synthetic import make


def main(output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    image = make("touching", shape=(256, 256), seed=6, diameter=24).as_input()
    model = load_model("embedded", device="cpu")

    options = PredictOptions(tasks=("instance",), device="cpu", keep_maps=True)
    planes = [e for e in predict(image, model, options) if isinstance(e, PlaneOutput)]
    maps = planes[0].maps["instance"]  # (3, Y, X) uint8: foreground, centredness, boundary distance
    print(f"kept maps {maps.shape} {maps.dtype}, {maps.nbytes / 1e3:.0f} kB")

    for threshold in (0.3, 0.5, 0.7):
        begun = time.perf_counter()
        ids = decode_instances(maps, InstanceOptions(threshold=threshold, remove_border=True))
        milliseconds = 1e3 * (time.perf_counter() - begun)
        print(f"threshold {threshold}: {ids.max()} objects, {milliseconds:.0f} ms")
        write_image(output / f"ids_at_{threshold}.tif", ids, "YX", {})


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("example_output"))
    main(parser.parse_args().output)
