"""``dinoscope explore``: features of images as colours, points, groups and figures."""

from __future__ import annotations

import argparse
import time
from collections.abc import Generator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoscope.commands.arguments import (
    Subparsers,
    add_command,
    add_option,
    build,
    channel_list,
    flatten,
)
from dinoscope.commands.inputs import (
    check_not_overwriting,
    check_stems,
    expand,
    make_folder,
    need_folder,
)
from dinoscope.commands.loading import load, progress_in
from dinoscope.commands.predict import add_image_flags, add_model_flags
from dinoscope.commands.report import Report
from dinoscope.config import (
    ClusterOptions,
    ExploreOptions,
    PcaOptions,
    PredictOptions,
    ProjectionOptions,
)
from dinoscope.errors import DinoscopeError, InputError, UsageError

if TYPE_CHECKING:
    from dinoscope.engine.explore.encode import TokenSet
    from dinoscope.engine.explore.overlay import Foreground
    from dinoscope.engine.explore.points import PointSet
    from dinoscope.engine.pca import Basis
    from dinoscope.models.model import Model
    from dinoscope.types import ImageInput

POINTS = ("patches", "objects", "images")
FORMATS = ("csv", "parquet", "h5ad")
#: Folder, within that of the results, for those of the model with its adapter off.
ORIGINAL = "original"
#: What `predict` appends to the names of label images.
_LABEL_ENDS = ("", "_instance", "_semantic")


def add_parser(subparsers: Subparsers) -> None:
    """Describe the command's flags."""
    parser = add_command(
        subparsers,
        "explore",
        "Show and compare the features that a model sees in images.",
        "dinoscope explore cells.tif --points objects --labels results --projection umap "
        "--output features",
    )
    parser.add_argument(
        "images", nargs="+", metavar="IMAGE", help="Image files, or folders of them."
    )
    parser.add_argument("--output", required=True, metavar="DIR", help="Folder of the results.")
    add_model_flags(parser)
    parser.add_argument(
        "--adapter",
        choices=("on", "off", "both"),
        default="on",
        help="LoRA adapter of a fine-tuned model; 'both' compares (default on).",
    )
    add_image_flags(parser)
    add_option(parser, ExploreOptions, "layers", "--layers", str, "LAYERS")
    add_option(parser, ExploreOptions, "zoom", "--zoom", float, "Z")
    add_option(parser, ExploreOptions, "diameter_px", "--diameter", float, "PX")
    add_option(parser, ExploreOptions, "denoise", "--denoise")
    add_option(parser, ExploreOptions, "local_contrast", "--local-contrast")
    colours = parser.add_argument_group("colours")
    add_option(colours, PcaOptions, "components", "--components", channel_list, "N,N,N")
    add_option(colours, PcaOptions, "basis", "--basis")
    colours.add_argument(
        "--upsample",
        choices=("linear", "image"),
        default="image",
        help="Interpolate patches, or sharpen them along the edges of the image (default image).",
    )
    colours.add_argument(
        "--foreground",
        action="store_true",
        help="Find components under labels only (--labels, else --classes); the rest is black.",
    )
    points = parser.add_argument_group("points")
    points.add_argument(
        "--points", choices=POINTS, default="patches", help="What is a point (default patches)."
    )
    points.add_argument(
        "--labels", metavar="DIR", help="Label images of objects, of the images' stems."
    )
    points.add_argument(
        "--classes",
        metavar="DIR",
        help="Label images of classes, of the images' stems: colours the plot, and tells how well "
        "the classes come apart.",
    )
    points.add_argument(
        "--projection",
        choices=("pca", "tsne", "umap"),
        default="pca",
        help="How points are laid out (default pca).",
    )
    add_option(points, ProjectionOptions, "dimensions", "--dimensions", int, "2|3")
    add_option(points, ProjectionOptions, "perplexity", "--perplexity", float, "P")
    add_option(points, ProjectionOptions, "neighbours", "--neighbours", int, "N")
    add_option(points, ProjectionOptions, "min_distance", "--min-distance", float, "D")
    add_option(points, ProjectionOptions, "seed", "--seed", int, "N")
    points.add_argument(
        "--groups",
        choices=("none", "kmeans", "hdbscan"),
        default="none",
        help="Find groups of points (default none).",
    )
    add_option(points, ClusterOptions, "clusters", "--clusters", int, "N")
    add_option(points, ClusterOptions, "min_size", "--min-group", int, "N")
    points.add_argument(
        "--format", choices=FORMATS, default="csv", help="File of the points (default csv)."
    )
    points.add_argument(
        "--no-features", action="store_true", help="Leave the tokens out of that file."
    )
    parser.set_defaults(run=run)


@dataclass
class _Job:
    """What is asked for, and what has been found so far."""

    args: argparse.Namespace
    report: Report
    folder: Path
    options: ExploreOptions
    images: dict[Path, ImageInput] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)
    outputs: list[str] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    usage_only: bool = True

    def steps(self, name: str, generator: Generator[Any, None, Any]) -> Any:
        """Run a generator to its end, showing its progress."""
        from dinoscope.types import Progress

        show = progress_in(self.report)
        started = time.perf_counter()
        try:
            while True:
                item = next(generator)
                if isinstance(item, Progress):
                    show(item)
        except StopIteration as stop:
            return stop.value
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - started

    def wrote(self, path: Path) -> None:
        """Note a file of results."""
        self.outputs.append(str(path))
        self.report.result(f"  {path}")


def run(args: argparse.Namespace, report: Report) -> int:
    """Encode all images, then write colours, points and a figure for all of them together."""
    paths = expand(args.images)
    check_stems(paths)
    options = build(ExploreOptions, args, channels=flatten(args.channel_lists) or None)
    _check(args)
    planned = [_colours_path(Path(args.output), path) for path in paths]
    check_not_overwriting(planned, paths)
    job = _Job(args, report, make_folder(args.output), options)
    _open_all(job, paths)
    if job.images:
        model = load(args.model, report, device=options.device, download=args.download)
        _explore(job, _models(job, model))
    return _finish(job)


def _check(args: argparse.Namespace) -> None:
    """What can be seen to be wrong before anything is read."""
    if args.points == "objects" and not args.labels:
        raise UsageError(
            "points are objects, but there are no labels",
            hint="Give --labels DIR, for example the folder of 'dinoscope predict'.",
        )
    if args.foreground and not (args.labels or args.classes):
        raise UsageError("no labels for --foreground", hint="Give --labels DIR or --classes DIR.")
    for flag in ("labels", "classes"):
        if getattr(args, flag):
            need_folder(getattr(args, flag), f"--{flag}")
    build(PcaOptions, args)
    build(ProjectionOptions, args, method=args.projection)
    if args.projection == "umap":
        from dinoscope.engine.explore.projection import require_umap

        require_umap()


def _open_all(job: _Job, paths: Sequence[Path]) -> None:
    from dinoscope.commands.batch import open_image

    for path in paths:
        record: dict[str, Any] = {"image": str(path), "status": "waiting"}
        job.records.append(record)
        try:
            reading = PredictOptions(
                channels=job.options.channels, pixel_size_um=job.options.pixel_size_um
            )
            job.images[path] = open_image(path, job.args.axes, reading)
        except Exception as error:
            _failed(job, path, error)


def _failed(job: _Job, path: Path, error: Exception) -> None:
    job.usage_only = job.usage_only and isinstance(error, UsageError)
    job.images.pop(path, None)
    record = next(r for r in job.records if r["image"] == str(path))
    record["status"] = "failed"
    record["error"] = job.report.error(error, path.name)


def _models(job: _Job, model: Model) -> list[tuple[Model, bool]]:
    """The model, the same with its adapter off, or both."""
    from dinoscope.engine.explore.encode import load_original

    found = [(model, True)] if job.args.adapter != "off" else []
    if job.args.adapter != "on":
        found.append((load_original(job.args.model, device=job.options.device), False))
    return found


def _explore(job: _Job, models: Sequence[tuple[Model, bool]]) -> None:
    """All of it, for each of the models."""
    from dinoscope.engine.explore.overlay import fit_bases, under_labels

    sets = _encode(job, models)
    if not sets[0]:
        return
    args = job.args
    options = build(PcaOptions, args)
    every = [found for of_model in sets for found in of_model]
    mask = None
    if args.foreground:
        readers = _labels(job, sets[0], args.labels or args.classes)
        count = len(sets[0])  # the same labels for every model
        mask = under_labels({n: readers[n % count] for n in range(len(every))})
    bases = job.steps("pca", fit_bases(every, foreground=mask, own=options.basis == "own"))
    for number, (_, on) in enumerate(models):
        folder = job.folder
        if not on and len(models) > 1:
            folder = make_folder(str(folder / ORIGINAL))
        first = number * len(sets[0])
        own = bases[first : first + len(sets[0])]
        result: dict[str, Any] = {"adapter": on, "explained": {}}
        for found, basis in zip(sets[number], own, strict=True):
            result["explained"][found.image] = basis.explained
        # Results by model: with both, one is what was before tuning and the other what is now.
        job.report.document.setdefault("results", []).append(result)
        _colours(job, sets[number], own, options, mask, folder)
        points = _points(job, sets[number])
        result["points"] = len(points)
        result |= _plot(job, points, folder)
        if args.classes:
            result["separability"] = _separability(job, points)


def _encode(job: _Job, models: Sequence[tuple[Model, bool]]) -> list[list[TokenSet]]:
    """Sets of the images that can be encoded, by model; the others are reported."""
    from dinoscope.engine.explore.encode import encode
    from dinoscope.engine.explore.store import TokenStore

    store = TokenStore()
    sets: list[list[TokenSet]] = [[] for _ in models]
    for path, image in list(job.images.items()):
        record = next(r for r in job.records if r["image"] == str(path))
        of_image: list[TokenSet] = []
        try:
            for model, on in models:
                # Both models look at the same patches.
                zoom = of_image[0].zoom if of_image else None
                steps = encode(image, model, job.options, store=store, adapter=on, zoom=zoom)
                of_image.append(job.steps("encode", steps))
        except DinoscopeError as error:
            _failed(job, path, error)
            continue
        for of_model, found in zip(sets, of_image, strict=True):
            of_model.append(found)
        found = of_image[0]
        record |= {"status": "done", "zoom": found.zoom, "patches": list(found.grid.grid)}
        record |= {"planes": len(found.indices), "layers": list(found.layers)}
        for note in found.notes:
            job.report.note(note)
    return sets


def _colours_path(folder: Path, path: Path) -> Path:
    from dinoscope.arrays.files import image_stem

    return folder / f"{image_stem(path)}_pca.tif"


def _colours(
    job: _Job,
    sets: Sequence[TokenSet],
    bases: Sequence[Basis],
    options: PcaOptions,
    mask: Foreground | None,
    folder: Path,
) -> None:
    """Write the colours of every image."""
    from dinoscope.commands.results import ResultFiles
    from dinoscope.engine.explore.overlay import ColouredPlane, coloured
    from dinoscope.types import PlaneOutput

    for number, (path, image) in enumerate(job.images.items()):
        places = [(number, index) for index in sets[number].indices]
        with ResultFiles(folder, path, image, ("pca",)) as files:

            def write(
                steps: Generator[Any, None, None], files: ResultFiles = files
            ) -> Generator[Any, None, None]:
                for step in steps:
                    if isinstance(step, ColouredPlane):
                        files.add(PlaneOutput(step.place[1], {"pca": step.rgb}))
                    else:
                        yield step

            job.steps("pca", write(coloured(sets, bases, options, places=places, foreground=mask)))
        job.wrote(files.paths["pca"])


def _labels(job: _Job, sets: Sequence[TokenSet], folder: str) -> dict[int, Any]:
    """A reader of the label image of every image.

    Raises
    ------
    InputError
        An image has no labels, or labels of another shape.
    """
    from dinoscope.arrays.files import image_stem
    from dinoscope.engine.explore.overlay import LabelReader

    readers = {}
    for number, (path, image) in enumerate(job.images.items()):
        stem = image_stem(path)
        found = [
            p
            for end in _LABEL_ENDS
            for p in sorted(Path(folder).glob(f"{_literal(stem)}{end}.*"))
            if image_stem(p) == f"{stem}{end}" and p.resolve() != path.resolve()
        ]
        if not found:
            raise InputError(
                f"folder {folder!r} holds no labels of {path.name!r}",
                expected=f"{stem}.tif or {stem}_instance.tif",
            )
        readers[number] = LabelReader(_read_labels(found[0], image), sets[number])
    return readers


def _literal(stem: str) -> str:
    import glob

    return glob.escape(stem)


def _read_labels(path: Path, image: ImageInput) -> ImageInput:
    """A label image, with the axes of its image where it has as many."""
    from dinoscope.arrays.files import read_image
    from dinoscope.errors import AxesError

    axes = f"{image.plane_axes}YX"
    try:
        return read_image(path, axes=axes)
    except AxesError:
        return read_image(path)


def _points(job: _Job, sets: Sequence[TokenSet]) -> PointSet:
    from dinoscope.engine.explore.points import image_points, object_points, patch_points

    classes = {"class": _labels(job, sets, job.args.classes)} if job.args.classes else {}
    if job.args.points == "objects":
        steps = object_points(
            sets,
            _labels(job, sets, job.args.labels),
            intensity=dict(enumerate(job.images.values())),
            classes=classes,
        )
    elif job.args.points == "images":
        steps = image_points(sets, classes=classes)
    else:
        steps = patch_points(sets, classes=classes)
    points: PointSet = job.steps("points", steps)
    for note in points.notes:
        job.report.note(note)
    return points


def _plot(job: _Job, points: PointSet, folder: Path) -> dict[str, Any]:
    """Lay points out, group them, write the file of points and the figure."""
    import numpy as np

    from dinoscope.commands.scatter import Scatter, draw_scatter
    from dinoscope.engine.explore.clusters import find_clusters
    from dinoscope.engine.explore.export import export_points
    from dinoscope.engine.explore.projection import project

    args = job.args
    result: dict[str, Any] = {"projection": args.projection}
    options = build(ProjectionOptions, args, method=args.projection)
    layout = job.steps("project", project(points, options))
    result["explained"] = layout.explained
    notes = list(layout.notes)
    further: dict[str, np.ndarray] = {args.projection: layout.coordinates}
    names = np.array([str(v) for v in points.table["image"]])
    title = f"{len(points)} {args.points}"
    if args.groups != "none":
        grouping = build(ClusterOptions, args, method=args.groups, space="features")
        found = job.steps("cluster", find_clusters(points, grouping))
        further["cluster"] = found.labels
        result["clusters"] = found.count
        notes += found.notes
        names = np.where(found.labels < 0, "", np.char.add("group ", found.labels.astype(str)))
    if args.classes:
        codes = points.table["class"]
        names = np.where(codes == 0, "", np.char.add("class ", codes.astype(str)))
    for note in notes:
        job.report.note(note)
    path = folder / f"points.{args.format}"
    export_points(points, path, further, features=not args.no_features)
    job.wrote(path)
    shares = ["", ""]
    if layout.explained is not None:
        shares = [f" ({share:.0%} of the variance)" for share in layout.explained[:2]]
    label = {"pca": "PC", "tsne": "t-SNE", "umap": "UMAP"}[args.projection]
    axes = (f"{label} 1{shares[0]}", f"{label} 2{shares[1]}")
    for suffix in ("png", "svg"):
        figure = folder / f"points.{suffix}"
        draw_scatter(figure, Scatter(layout.coordinates, names, title, axes))
        job.wrote(figure)
    return result


def _separability(job: _Job, points: PointSet) -> dict[str, Any]:
    from dinoscope.engine.explore.separability import separability

    try:
        found = job.steps("probe", separability(points.features(), points.table["class"]))
    except InputError as error:
        job.report.note(f"separability was not measured: {error}")
        return {}
    for note in found.notes:
        job.report.note(note)
    job.report.result(
        f"classes come apart: accuracy {found.accuracy:.3f}, silhouette {found.silhouette:.3f}"
    )
    columns = [column.tolist() for column in found.table.values()]
    rows = [dict(zip(found.table, row, strict=True)) for row in zip(*columns, strict=True)]
    return {
        "accuracy": found.accuracy,
        "accuracy_std": found.accuracy_std,
        "silhouette": found.silhouette,
        "folds": found.folds,
        "classes": rows,
    }


def _finish(job: _Job) -> int:
    """Fill the document; the exit status of the command."""
    seconds = job.report.document.setdefault("seconds", {})
    seconds.update(job.seconds)
    job.report.document.update(output=str(job.folder), outputs=job.outputs, images=job.records)
    failed = [r for r in job.records if r["status"] == "failed"]
    if not failed:
        return 0
    done = len(job.records) - len(failed)
    if len(job.records) > 1:
        job.report.say(f"{len(failed)} of {len(job.records)} images failed, {done} are done.")
    return 2 if not done and job.usage_only else 1
