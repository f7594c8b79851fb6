"""``dinoscope models``: what can be loaded, and what is inside of a model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoscope.commands.arguments import Subparsers, add_command, axes_text
from dinoscope.commands.loading import load
from dinoscope.commands.report import Report, plain
from dinoscope.errors import MissingWeightsError, UsageError

if TYPE_CHECKING:
    from dinoscope.models.model import Model
    from dinoscope.models.registry import BackboneSpec


def add_parser(subparsers: Subparsers) -> None:
    """Describe the command's flags."""
    parser = add_command(
        subparsers,
        "models",
        "List the models, or describe one.",
        "dinoscope models embedded --image cells.tif",
    )
    parser.add_argument("name", nargs="?", metavar="NAME", help="A model's name or file.")
    parser.add_argument("--image", metavar="FILE", help="Also show token statistics on this image.")
    parser.add_argument("--axes", type=axes_text, metavar="CYX", help="Axes of that image.")
    parser.add_argument(
        "--download",
        action="store_true",
        help="Download backbone weights that are not on this disk.",
    )
    parser.set_defaults(run=run)


def run(args: argparse.Namespace, report: Report) -> int:
    """List, or describe ``NAME``."""
    if args.name is not None:
        return describe(args, report)
    if args.image is not None:
        raise UsageError(
            "--image was given without a model", hint="Say which: models NAME --image F."
        )
    return list_all(report)


def list_all(report: Report) -> int:
    """One line for each model."""
    from dinoscope.models.catalog import list_models

    models = list_models()
    report.document["models"] = models
    width = max((len(str(m["name"])) for m in models), default=4)
    for entry in models:
        tasks = ", ".join((*(entry.get("tasks") or ()), "pca"))
        if entry.get("lent_tasks"):
            tasks += f"; with {entry['backbone']}: " + ", ".join(entry["lent_tasks"])
        state = "ready" if entry.get("available") else "not on this disk"
        kind = str(entry.get("kind", ""))
        report.result(f"{entry['name']!s:<{width}}  {kind:<9}  {state:<16}  {tasks}")
    return 0


def describe(args: argparse.Namespace, report: Report) -> int:
    """Dimensions, parameters, tasks, and tokens on an image where one is given."""
    from dinoscope.models.registry import BACKBONES

    try:
        model = load(args.name, report, download=args.download)
    except MissingWeightsError as missing:
        spec = BACKBONES.get(args.name)
        if spec is None or args.image is not None:
            raise
        # The table knows a backbone that is not here yet.
        report.note(str(missing))
        facts = {"model": args.name, "available": False, **spec_facts(spec)}
    else:
        facts = {"available": True, **model_facts(model)}
        if args.image is not None:
            from dinoscope.arrays.files import read_image
            from dinoscope.commands.tokens import token_statistics

            image = read_image(Path(args.image), axes=args.axes)
            facts["image"] = args.image
            facts["tokens"] = token_statistics(model, image)
    report.document.update(facts)
    for line in lines(plain(facts)):
        report.result(line)
    return 0


def spec_facts(spec: BackboneSpec) -> dict[str, Any]:
    """What the table says about a backbone."""
    return {
        "backbone": spec.name,
        "embed_dim": spec.embed_dim,
        "depth": spec.depth,
        "num_heads": spec.num_heads,
        "patch": spec.patch,
        "registers": spec.registers,
        "parameters_m": spec.params_m,
        "licence": spec.licence,
    }


def model_facts(model: Model) -> dict[str, Any]:
    """What a loaded model is made of."""
    card = model.card
    backbone = sum(p.numel() for p in model.backbone.parameters())
    total = sum(p.numel() for p in model.parameters())
    facts = {"model": card.name, **spec_facts(model.backbone.spec)}
    facts.update(
        parameters={"backbone": backbone, "heads": total - backbone, "total": total},
        parameters_m=round(total / 1e6, 3),
        layers=card.layers or model.backbone.layers,
        tasks={
            task: {"kind": head.kind, "classes": head.classes, "unit": head.unit}
            for task, head in card.heads.items()
        },
        adapter=card.adapter,
        diameter_px=card.diameter_px,
        pixel_size_um=card.pixel_size_um,
        tile=card.tile,
        normalization=card.normalization,
        backbone_hash=card.backbone_hash,
        description=card.description,
        data=card.data,
        scores=card.scores,
        notes=card.notes,
    )
    if card.licence:
        facts["licence"] = card.licence
    return facts


def lines(facts: dict[str, Any], indent: str = "") -> list[str]:
    """Facts as aligned lines; what is empty is left out."""
    shown = {name: value for name, value in facts.items() if value not in (None, "", [], {})}
    width = max((len(name) for name in shown), default=0)
    text = []
    for name, value in shown.items():
        if isinstance(value, dict):
            text.append(f"{indent}{name}")
            text.extend(lines(value, indent + "  "))
        elif isinstance(value, list):
            text.append(f"{indent}{name:<{width}}  {', '.join(map(_short, value))}")
        else:
            text.append(f"{indent}{name:<{width}}  {_short(value)}")
    return text


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
