"""Many images through one model: each written as it goes, each with its own record."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dinoscope.commands.report import Report
from dinoscope.commands.results import ResultFiles, join_tables
from dinoscope.config import PredictOptions
from dinoscope.errors import UsageError

if TYPE_CHECKING:
    from dinoscope.arrays.calibrate import Calibration
    from dinoscope.types import ImageInput, Summary, Table


def open_image(path: Path, axes: str | None, options: PredictOptions) -> ImageInput:
    """Open an image lazily, with the pixel size that was given.

    Raises
    ------
    DinoscopeError
        It cannot be read, its axes are unclear, or it lacks a chosen channel.
    """
    from dinoscope.arrays.axes import chosen_channels, require_pixels
    from dinoscope.arrays.files import read_image

    image = read_image(path, axes=axes)
    require_pixels(image)
    chosen_channels(image, options.channels)
    if options.pixel_size_um is not None:
        size = {**image.pixel_size_um, "Y": options.pixel_size_um, "X": options.pixel_size_um}
        image = dataclasses.replace(image, pixel_size_um=size)
    return image


class Batch:
    """Many images, one after the other, and what became of each.

    Parameters
    ----------
    report : Report
        Told about progress, results and errors.
    folder : Path
        Folder of the results; it exists.
    options : PredictOptions
        The same for all images.
    axes : str, optional
        Axes of every file.
    diameters_px : Mapping[Path, float], optional
        Typical object diameters of single images, instead of the one in `options`.
    """

    def __init__(
        self,
        report: Report,
        folder: Path,
        options: PredictOptions,
        axes: str | None = None,
        diameters_px: Mapping[Path, float] | None = None,
    ) -> None:
        self.report = report
        self.folder = folder
        self.options = options
        self.axes = axes
        self._diameters_px = dict(diameters_px or {})
        self._records: dict[Path, dict[str, Any]] = {}
        self._classes: list[Table] = []
        self._usage_only = True
        self._extra: list[Path] = []
        #: What was written for each image that is done, by task.
        self.outputs: dict[Path, dict[str, Path]] = {}

    def open_all(self, paths: Sequence[Path]) -> list[Path]:
        """Those of `paths` that can be opened; the others are reported at once."""
        good = []
        for path in paths:
            self._records[path] = {"image": str(path), "status": "waiting", "outputs": {}}
            try:
                open_image(path, self.axes, self.options)
            except Exception as error:
                self._failed(path, error)
            else:
                good.append(path)
        return good

    def run(self, paths: Sequence[Path], model: Any, calibration: Calibration | None) -> None:
        """Predict `paths`; an error belongs to its image alone."""
        # Imported here, so that a broken installation is one error and not one for each image.
        import dinoscope.engine.predict  # noqa: F401

        try:
            for number, path in enumerate(paths, 1):
                label = f"[{number}/{len(paths)}] {path.name}" if len(paths) > 1 else path.name
                try:
                    self._run_one(path, label, model, calibration)
                except Exception as error:
                    self._failed(path, error)
        finally:
            # Also after Ctrl-C: scores that were computed are kept.
            if "classification" in self.options.tasks and self._classes:
                from dinoscope.arrays.files import write_table

                table = self.folder / "classification.csv"
                write_table(table, join_tables(self._classes))
                self._extra.append(table)

    def _failed(self, path: Path, error: Exception) -> None:
        self._usage_only = self._usage_only and isinstance(error, UsageError)
        source = path.name if path.name in str(error) else str(path)
        record = self._records[path]
        record["status"] = "failed"
        record["error"] = self.report.error(error, source)
        record["error"]["image"] = str(path)

    def _run_one(self, path: Path, label: str, model: Any, calibration: Calibration | None) -> None:
        from dinoscope.engine.predict import predict
        from dinoscope.types import PlaneOutput

        image = open_image(path, self.axes, self.options)
        classes: list[Table] = []
        write_s = 0.0
        with ResultFiles(self.folder, path, image, self.options.tasks) as files:
            options = self.options
            if path in self._diameters_px:
                options = dataclasses.replace(options, diameter_px=self._diameters_px[path])
            events = predict(image, model, options, calibration)
            try:
                while True:
                    event = next(events)
                    if isinstance(event, PlaneOutput):
                        started = time.perf_counter()
                        if event.classes is not None:
                            classes.append(class_rows(path.name, files.planes, event.classes))
                        files.add(event)
                        write_s += time.perf_counter() - started
                    else:
                        self.report.progress(
                            f"{label}: {event.step}",
                            event.done,
                            event.total,
                            event.seconds_left,
                            event.message,
                        )
            except StopIteration as stop:
                summary: Summary = stop.value
            finally:
                events.close()
            started = time.perf_counter()
        write_s += time.perf_counter() - started
        self._classes.extend(classes)
        self._done(path, files, summary, write_s)

    def _done(self, path: Path, files: ResultFiles, summary: Summary, write_s: float) -> None:
        document = self.report.document
        document["model_hash"] = summary.model_hash
        document["device"] = summary.device
        seconds = {**summary.seconds, "write": write_s}
        totals = document.setdefault("seconds", {})
        for step, value in seconds.items():
            totals[step] = totals.get(step, 0.0) + value
        self.outputs[path] = files.paths
        record = self._records[path]
        record.update(
            status="done",
            outputs={kind: str(written) for kind, written in files.paths.items()},
            planes=files.planes,
            diameter_px=summary.diameter_px,
            seconds=seconds,
            notes=summary.notes,
        )
        told = [f"{files.planes} plane{'s' * (files.planes != 1)}"]
        if "instance" in self.options.tasks:
            record["objects"] = files.objects
            told.append(f"{files.objects} object{'s' * (files.objects != 1)}")
        if "semantic" in self.options.tasks and "semantic" in summary.class_names:
            record["classes"] = summary.class_names["semantic"]
        if "depth" in self.options.tasks:
            record["depth_unit"] = summary.depth_unit
        for note in summary.notes:
            self.report.note(note)
        self.report.result(f"{path.name}: {', '.join(told)}")
        for written in files.paths.values():
            self.report.result(f"  {written}")

    def finish(self) -> int:
        """Fill the document; the exit status of the command."""
        records = list(self._records.values())
        done = [r for r in records if r["status"] == "done"]
        failed = [r for r in records if r["status"] == "failed"]
        for table in self._extra:
            self.report.result(f"  {table}")
        self.report.document.update(
            tasks=self.options.tasks,
            output=str(self.folder),
            outputs=[p for r in done for p in r["outputs"].values()]
            + [str(p) for p in self._extra],
            images=records,
        )
        if not failed:
            return 0
        if len(records) > 1:
            self.report.say(f"{len(failed)} of {len(records)} images failed, {len(done)} are done.")
        return 2 if not done and self._usage_only else 1


def class_rows(name: str, plane: int, classes: Table) -> Table:
    """The class scores of one plane with the image and plane they belong to.

    `object` is the object's id, or 0 for the image as a whole.
    """
    import numpy as np

    length = len(next(iter(classes.values()), ()))
    table: dict[str, Any] = {
        "image": np.full(length, name),
        "plane": np.full(length, plane, dtype=np.int64),
        "object": np.zeros(length, dtype=np.int64),
    }
    table.update({key: value for key, value in classes.items() if key not in ("image", "plane")})
    return table
