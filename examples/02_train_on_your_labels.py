"""Fine-tune the embedded model with LoRA on images and labels, and use the result.

    python examples/02_train_on_your_labels.py --output example_output

Two small made images and a few seconds show how; with real ones give it ten minutes.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dinoscope import PredictOptions, TrainOptions, load_model, run_prediction, train
from dinoscope.datasets.synthetic import make
from dinoscope.engine.dataset import TaskSource
from dinoscope.types import ImageInput, Progress


def labelled(seed: int) -> tuple[ImageInput, ImageInput]:
    """An image and its instance labels; in practice two files of one stem."""
    made = make("rods", shape=(160, 160), seed=seed, diameter=20)
    return made.as_input(), ImageInput(made.instances, "YX", name=f"labels_{seed}")


def main(output: Path) -> None:
    output.mkdir(parents=True, exist_ok=True)
    images, labels = zip(*(labelled(seed) for seed in range(4)), strict=True)

    # Images are split by image: the last one is held out, so that the best state can be chosen.
    options = TrainOptions(
        tune="lora-last:2", lora_rank=4, epochs=2, batch_size=2, crop_px=112, device="cpu"
    )
    events = train(
        [TaskSource("instance", images[:3], labels[:3])],
        options,
        base="embedded",
        output=output / "rods.dinoscope",
        val_sources=[TaskSource("instance", images[3:], labels[3:])],
    )
    for event in events:  # a generator: close it and training stops
        if isinstance(event, Progress) and event.values:
            shown = {name: round(value, 3) for name, value in event.values.items()}
            print(f"{event.step} {event.done}/{event.total}: {shown}")

    model = load_model(output / "rods.dinoscope", device="cpu")
    print(f"{model.card.name}: adapter {model.card.adapter}")
    arrays, _, _, _ = run_prediction(images[3], model, PredictOptions(device="cpu"))
    print(f"{arrays['instance'].max()} objects in the held-out image")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("example_output"))
    main(parser.parse_args().output)
