"""Score predictions against the truth: folders of files, tables of classes, or planes as they come.

Conventions, for all tasks: nothing to find and nothing found is a perfect score; what the truth
does not know (255 in classes, NaN in depth) is not scored; a figure that does not exist (a class
that never occurs) has no key. Intervals are 95 %, by bootstrap over images.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dinoscope.config import TRAINABLE_TASKS, EvaluateOptions
from dinoscope.engine.evaluate.cases import file_cases
from dinoscope.engine.evaluate.classes import evaluate_classes
from dinoscope.engine.evaluate.depth import DepthScorer
from dinoscope.engine.evaluate.evaluation import Case, Evaluation, Scorer
from dinoscope.engine.evaluate.instances import InstanceScorer
from dinoscope.engine.evaluate.semantic import SemanticScorer
from dinoscope.engine.pairs import pair_classes, pair_files
from dinoscope.errors import InputError

__all__ = ["Case", "Evaluation", "Scorer", "evaluate", "evaluate_files", "scorer_for"]

_SCORERS: dict[str, Any] = {
    "instance": InstanceScorer,
    "semantic": SemanticScorer,
    "depth": DepthScorer,
}


def evaluate(predictions: str | Path, truth: str | Path, task: str) -> dict[str, Any]:
    """Score predictions against the truth; everything as one dictionary.

    Files are paired by stem: prediction ``<stem>_<task>.tif`` (or ``<stem>.tif``), truth
    ``<stem>.tif``, ``.png`` or any other format that is read. Stacks are scored plane by plane, so
    *image* means plane below. For classification, see :func:`dinoscope.engine.pairs.pair_classes`.

    Parameters
    ----------
    predictions, truth : str or Path
        Two folders; for classification also the two CSV files.
    task : {"instance", "semantic", "depth", "classification"}
        What is scored.

    Returns
    -------
    dict
        ``n``: what was scored (images, or rows of classes); ``predictions_without_truth``: what
        was not; ``per_image``: list of scores; ``intervals``: 95 % interval of each figure that has
        one, by bootstrap over images (all planes of an image together); ``notes``. By task, besides
        what the functions of :mod:`dinoscope.arrays.metrics` name:

        instance
            ``ap50 ap75 map f1_50 pq iou seg dice``: means over images (`dice`: of the foreground);
            ``ap50_low ap50_high``: interval of `ap50`; ``ap50_pooled …``: from counts summed over
            images; ``tp fp fn n_truth n_pred count_error merged split``; ``coco_map coco_ap50
            coco_ap75`` where every object has a score.
        semantic
            ``iou dice accuracy boundary_f1 iou_<class> …`` from all pixels of all images together;
            ``iou_per_image …``: means over images.
        depth
            ``rmse mae absrel delta1``, the same with ``_fit``, ``rmse_mean rmse_over_mean …``:
            means over images; a scale and an offset are fitted to each image.
        classification
            ``accuracy balanced_accuracy f1_macro f1_weighted f1_<class> …``; with probabilities
            ``roc_auc average_precision ece``.

    Raises
    ------
    InputError
        A file, folder or partner is missing, shapes differ, or values are no labels.
    """
    return evaluate_files(predictions, truth, task).document()


def evaluate_files(
    predictions: str | Path,
    truth: str | Path,
    task: str,
    options: EvaluateOptions | None = None,
    *,
    images: str | Path | None = None,
    groups: Mapping[str, str] | None = None,
) -> Evaluation:
    """Score predictions in files; see :func:`evaluate` for the figures.

    Parameters
    ----------
    images : str or Path, optional
        Folder of the images that were predicted on: for pictures, and for the focus baseline.
    groups : mapping, optional
        Group of each image (by stem): images of one group are drawn together for the intervals.

    Raises
    ------
    InputError
        As :func:`evaluate`; or an image has no group.
    """
    predictions, truth = Path(predictions), Path(truth)
    if task not in TRAINABLE_TASKS:
        raise InputError(f"task is {task!r}", expected="one of " + ", ".join(TRAINABLE_TASKS))
    if task == "classification":
        classes = pair_classes(predictions, truth)
        evaluation = evaluate_classes(classes, groups)
        unused = classes.without_truth
    else:
        pairs, unused = pair_files(predictions, truth, task)
        scorer = scorer_for(task, options, groups)
        for case in file_cases(pairs, Path(images) if images is not None else None):
            scorer.add(case)
        evaluation = scorer.finish()
    evaluation.scores["predictions_without_truth"] = unused
    return evaluation


def scorer_for(
    task: str,
    options: EvaluateOptions | None = None,
    groups: Mapping[str, str] | None = None,
) -> Scorer:
    """Something that scores planes of `task` (instance, semantic or depth) as they come.

    Raises
    ------
    InputError
        There is no such task, or its items are no planes.

    Examples
    --------
    >>> import numpy as np
    >>> scorer = scorer_for("instance")
    >>> faults = scorer.add(Case("a", 0, np.array([[1, 1, 0, 2]]), np.array([[5, 5, 0, 0]])))
    >>> faults.tolist(), scorer.finish().scores["ap50"]
    ([[1, 1, 0, 3]], 0.5)
    """
    if task not in _SCORERS:
        raise InputError(f"task is {task!r}", expected="one of " + ", ".join(_SCORERS))
    scorer: Scorer = _SCORERS[task](options or EvaluateOptions(), groups)
    return scorer
