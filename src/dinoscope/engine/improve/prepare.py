"""What a round needs before it trains: material, what judges, scale, heads, what is trained."""

from __future__ import annotations

from collections.abc import Callable, Generator, Mapping
from dataclasses import asdict, dataclass

from dinoscope.arrays.normalize import Normalization
from dinoscope.config import ImproveOptions
from dinoscope.engine.imports import imported
from dinoscope.engine.improve.choose import Choice, candidates, choose, measure
from dinoscope.engine.improve.holdout import Holdout, hold_out
from dinoscope.engine.improve.material import Material, gather, training_images
from dinoscope.engine.improve.stages import Notebook
from dinoscope.engine.improve.training import (
    Setting,
    add_heads,
    crop_plan,
    head_specs,
    settings_of_losses,
)
from dinoscope.models.card import HeadSpec
from dinoscope.models.checkpoint import load_model
from dinoscope.models.device import pick_device, set_threads, torch
from dinoscope.models.precision import check_bf16
from dinoscope.project import Project
from dinoscope.types import ImageInput, Progress


@dataclass(frozen=True)
class Prepared:
    """A round that can begin.

    `base` is the model's name or file, `base_name` what its card calls it; `images` are the whole
    images by source.
    """

    base: str
    base_name: str
    base_heads: tuple[str, ...]
    project_name: str
    material: Material
    holdout: Holdout
    specs: Mapping[str, HeadSpec]
    setting: Setting
    choice: Choice
    images: Mapping[str, ImageInput]


def prepare(
    project: Project,
    options: ImproveOptions,
    base: str,
    images: Mapping[str, ImageInput] | None,
    notebook: Notebook | None,
    clock: Callable[[], float],
    *,
    allow_download: bool = False,
) -> Generator[Progress, None, Prepared]:
    """Read, split, measure.

    Raises
    ------
    InputError
        Nothing is annotated that can be learned from.
    """
    if notebook is not None:  # a plan trains nothing
        for name in imported():
            yield Progress("prepare", 0, 4, message=f"loading {name}")
    yield Progress("prepare", 0, 4, message="loading the model")
    device = pick_device(options.device)
    set_threads(options.threads)
    torch.manual_seed(options.seed)
    model = load_model(base, device=device, allow_download=allow_download)
    yield Progress("prepare", 1, 4, message="reading what is annotated")
    normalization = Normalization.from_json(model.card.normalization)
    whole = _images(project, images)
    material = gather(project, normalization, whole)
    holdout = hold_out(material, options.seed)
    plan = crop_plan(model, material, options.crop_px)
    specs = head_specs(model, material)
    dtype, _ = check_bf16(model.backbone, device)
    setting = Setting(
        plan,
        options,
        material.classes,
        device,
        None if dtype == torch.float32 else dtype,
        clock,
    )
    train_options = setting.train_options("heads" if options.tune == "auto" else options.tune)
    losses = settings_of_losses(specs, train_options, list(training_images(material.planes)))
    setting = Setting(plan, options, material.classes, device, setting.autocast, clock, losses)
    base_name, heads = model.card.name, tuple(model.card.heads)
    depth = len(model.backbone.vit.blocks)
    noted = notebook.get("choice") if notebook is not None else None
    if noted:
        choice = Choice(**noted)
    else:
        measured: dict[str, float] = {}
        if options.tune == "auto" or notebook is None:
            add_heads(model, specs, plan, options.seed)
            ways = candidates(depth) if options.tune == "auto" else [options.tune]
            measured = yield from measure(model, holdout.parts[0].training, setting, ways)
        choice = choose(measured, options.minutes, depth, options.tune)
        if notebook is not None:
            notebook.note("choice", asdict(choice))
    yield Progress("prepare", 3, 4, message=choice.why)
    return Prepared(
        base,
        base_name,
        heads,
        project.name,
        material,
        holdout,
        specs,
        setting,
        choice,
        whole,
    )


def _images(project: Project, given: Mapping[str, ImageInput] | None) -> dict[str, ImageInput]:
    """Images that are given, or that can be opened, of sources that anything is annotated on."""
    from dinoscope.errors import DinoscopeError

    found = {}
    for source in project.sources:
        if not project.planes(source):
            continue
        if given and source in given:
            found[source] = given[source]
            continue
        try:
            found[source] = project.open_image(source)
        except DinoscopeError:  # gathering says why
            continue
    return found
