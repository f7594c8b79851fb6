"""Average the weights of two models of one training: ``python -m benchmarks.average_weights FIRST
SECOND --share 0.55 --output FILE``.

What was learned last is partly what was seen last; between the ends of two stretches of one
training, or of two runs from one start, lie weights that do well on what either saw (Wortsman et
al. 2022, *Model soups*, arXiv:2203.05482).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from dinoscope.models.checkpoint import load_model, save_model


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("first", help="name or file")
    parser.add_argument("second", help="name or file, whose card is kept")
    parser.add_argument("--share", type=float, default=0.5, help="of the second")
    parser.add_argument("--told", default="what it began from", help="what the first is")
    parser.add_argument("--output", type=Path, required=True)
    options = parser.parse_args()
    first = load_model(options.first, device="cpu").state_dict()
    model = load_model(options.second, device="cpu")
    second = model.state_dict()
    if first.keys() != second.keys():
        raise SystemExit("the models differ in their parts")
    share = options.share
    model.load_state_dict(
        {n: first[n].float() * (1 - share) + second[n].float() * share for n in second}
    )
    told = {
        **model.card.training,
        "averaged": f"{share:g} with {1 - share:g} of {options.told}",
    }
    model.card = model.card.replace(scores={}, training=told)
    save_model(model, options.output, half=True)


if __name__ == "__main__":
    main()
