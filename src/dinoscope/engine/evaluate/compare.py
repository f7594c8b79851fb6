"""Two sets of predictions for the same truth, side by side, with a paired test."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from dinoscope.arrays.intervals import PairedTest, paired_test
from dinoscope.engine.evaluate.evaluation import MAIN_FIGURE, Evaluation, groups_of
from dinoscope.errors import InputError

#: Figures of single images that are compared, by task.
COMPARED = {
    "instance": ("ap50", "ap75", "map", "f1_50", "pq", "seg", "dice"),
    "semantic": ("iou", "dice", "boundary_f1", "accuracy"),
    "depth": ("rmse", "rmse_fit", "mae", "absrel", "delta1"),
    "classification": ("right", "confidence"),
}
#: With fewer pairs no difference can reach 5 %: two in 2⁵ patterns of signs are as extreme.
_FEWEST = 6
_LESS_IS_BETTER = {"rmse", "rmse_fit", "mae", "absrel", "ece"}


@dataclass(frozen=True)
class Comparison:
    """A second evaluation against a first.

    `tests` by figure: second minus first over the images they share. `n_shared` counts these.
    """

    task: str
    n_shared: int
    tests: dict[str, PairedTest]

    def document(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "n": self.n_shared,
            "figures": {name: asdict(test) for name, test in self.tests.items()},
            "verdict": self.verdict(),
        }

    def verdict(self, level: float = 0.05) -> str:
        """One sentence about the main figure."""
        name, more = MAIN_FIGURE[self.task]
        test = self.tests[name]
        shown = "accuracy" if name == "right" else name
        if test.n == 1:
            if not test.difference:
                return f"{shown} is the same in the one image that there is."
            return (
                f"{shown} differs by {test.difference:+.4g} in one image, which says nothing about "
                "how much others would differ."
            )
        text = (
            f"{shown} differs by {test.difference:+.4g} "
            f"(95 % interval {test.low:+.4g} to {test.high:+.4g}, p = {test.p_value:.2g}, "
            f"{test.n} pairs)"
        )
        if test.n < _FEWEST:
            return f"Too few pairs to show a difference: {text}."
        if test.p_value >= level:
            return f"No difference shown: {text}."
        better = (test.difference > 0) == more
        return f"The second is {'better' if better else 'worse'}: {text}."


def less_is_better(figure: str) -> bool:
    """Whether a low value of a figure is good."""
    return figure in _LESS_IS_BETTER


def compare(
    first: Evaluation, second: Evaluation, groups: Mapping[str, str] | None = None
) -> Comparison:
    """Test, figure by figure, whether `second` differs from `first`.

    Images (or objects, for classes) are paired by name; planes of one image count as one pair
    where there are several images. See :func:`dinoscope.arrays.intervals.paired_test` for the test
    and why it is that one.

    Raises
    ------
    InputError
        Different tasks, or no image in common.
    """
    if first.task != second.task:
        raise InputError(
            f"the evaluations are of {first.task!r} and {second.task!r}", expected="one task"
        )
    other = {_key(row): row for row in second.per_image}
    rows = [(row, other[_key(row)]) for row in first.per_image if _key(row) in other]
    if not rows:
        raise InputError("the two have no image in common", expected="predictions of one truth")
    group = groups_of([row for row, _ in rows], groups)
    tests = {}
    for name in COMPARED[first.task]:
        values = [(a.get(name, float("nan")), b.get(name, float("nan"))) for a, b in rows]
        if any(a == a and b == b for a, b in values):
            tests[name] = paired_test([a for a, _ in values], [b for _, b in values], group)
    return Comparison(first.task, len(rows), tests)


def _key(row: Mapping[str, Any]) -> tuple[Any, ...]:
    return (row["image"], row.get("plane"), row.get("object"))
