"""Makes the screenshots in ``docs/images`` from a real napari window.

Run it where there is a display, or under Xvfb::

    xvfb-run -a -s "-screen 0 1600x1000x24" python docs/make_screenshots.py [NAME...]

Names are those of the functions below without ``shot_``; all of them when none is given.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import napari
import numpy as np
from napari.utils.notifications import notification_manager
from qtpy.QtWidgets import QApplication

IMAGES = Path(__file__).resolve().parent / "images"
SIZE = (1480, 940)
PLUGIN = "napari-dinoscope"


def wait(seconds: float = 0.3) -> None:
    """Let the window work for a while."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        QApplication.processEvents()
        time.sleep(0.01)


def until(ready: Callable[[], Any], what: str, timeout_s: float = 900) -> None:
    """Let the window work until something is true."""
    end = time.monotonic() + timeout_s
    while not ready():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {timeout_s} s for {what}")
        QApplication.processEvents()
        time.sleep(0.01)


def open_viewer(sample: str) -> tuple[napari.Viewer, Any]:
    """A window with a sample and the Predict panel, the worker warm."""
    viewer = napari.Viewer(show=True)
    viewer.window.resize(*SIZE)
    viewer.open_sample(PLUGIN, sample)
    _, panel = viewer.window.add_plugin_dock_widget(PLUGIN, "Predict")
    until(lambda: " s · " in panel.runbar.cost.text(), "the cost line")
    viewer.fit_to_view()
    return viewer, panel


def run(panel: Any) -> None:
    """Press Run and wait for the end."""
    panel.runbar.run.click()
    until(lambda: not panel.runbar.busy, "the run")
    if panel.runbar.status.property("tone") == "error":
        raise RuntimeError(panel.runbar.status.text())


def save(viewer: napari.Viewer, name: str) -> None:
    """Write the whole window to ``docs/images/NAME.png``."""
    wait(0.6)
    IMAGES.mkdir(exist_ok=True)
    viewer.screenshot(str(IMAGES / f"{name}.png"), canvas_only=False)
    print(f"wrote {name}.png")


def shot_predict() -> None:
    """Stained tissue: the run, then its objects and their table."""
    viewer, panel = open_viewer("ihc")
    panel.tasks.wanted = ["instance", "semantic", "pca"]
    panel.runbar.run.click()
    until(lambda: "left" in panel.runbar.status.text() or not panel.runbar.busy, "progress")
    save(viewer, "progress")
    until(lambda: not panel.runbar.busy, "the run")
    viewer.layers["ihc · classes"].visible = False
    viewer.layers["ihc · instances"].opacity = 0.5
    save(viewer, "predict")
    viewer.close()


def shot_cell() -> None:
    """One cell: diameter, circle, more options."""
    viewer, panel = open_viewer("cell")
    panel.more_fold.open()
    panel.diameter.estimate.click()
    until(lambda: panel.diameter.estimate.isEnabled(), "the diameter")
    save(viewer, "diameter")
    run(panel)
    save(viewer, "cell")
    viewer.close()


def shot_stack() -> None:
    """A z-stack: objects on all planes, and the height map."""
    viewer, panel = open_viewer("zstack")
    viewer.layers["zstack masks"].visible = False
    panel.source.combo.layer = viewer.layers["zstack"]
    viewer.dims.set_current_step(0, viewer.dims.nsteps[0] // 2)
    panel.scope.buttons["stack"].click()
    run(panel)
    viewer.layers["zstack · instances"].opacity = 0.5
    save(viewer, "stack")
    panel.height.run.click()
    until(lambda: not panel.runbar.busy, "the height map")
    viewer.layers["zstack · instances"].visible = False
    panel.scroll.verticalScrollBar().setValue(10_000)
    save(viewer, "heightmap")
    viewer.close()


def shot_channels() -> None:
    """A time series in two channels: layers as channels, all frames."""
    viewer, panel = open_viewer("timelapse")
    viewer.layers["timelapse masks"].visible = False
    panel.source.combo.layer = viewer.layers["timelapse nuclei"]
    panel.source.several.setChecked(True)
    panel.scope.buttons["stack"].click()
    run(panel)
    panel.adjust.controls["threshold"].value = 0.6
    until(lambda: not panel.last_run.adjusting, "the objects")
    save(viewer, "channels")
    viewer.close()


def shot_finetune() -> None:
    """Fine-tune on three layers and their labels, then compare with where it started."""
    from dinoscope.datasets.synthetic import make

    viewer, panel = open_viewer("cell")
    viewer.layers.remove("cell")
    _, school = viewer.window.add_plugin_dock_widget(PLUGIN, "Fine-tune")
    wait()
    for number in range(3):
        made = make("rods", shape=(256, 256), seed=number)
        image = viewer.add_image(made.image[0], name=f"rods {number + 1}")
        truth = viewer.add_labels(made.instances, name=f"outlines {number + 1}")
        school.source.combo.layer, school.labels.layer = image, truth
        school.add.click()
    school.minutes.value = 2
    with tempfile.TemporaryDirectory() as folder:
        school.output.setText(str(Path(folder) / "rods.dinoscope"))
        school.runbar.run.click()
        until(lambda: len(school.curve.score) > 6 or not school.runbar.busy, "scores")
        school.scroll.verticalScrollBar().setValue(10_000)
        save(viewer, "finetune")
        until(lambda: not school.runbar.busy, "the training")
        if school.runbar.status.property("tone") == "error":
            raise RuntimeError(school.runbar.status.text())
        panel.parent().raise_()
        for number in range(3):
            viewer.layers[f"outlines {number + 1}"].visible = False
        panel.source.combo.layer = viewer.layers["rods 1"]
        panel.trials_fold.open()
        wait()
        panel.trials.try_button.click()
        until(lambda: not panel.runbar.busy, "the comparison")
        panel.scroll.verticalScrollBar().setValue(10_000)
        save(viewer, "compare")
    viewer.close()


def stained_nuclei(tissue: np.ndarray) -> np.ndarray:
    """Nuclei of a stained section, found by their colour: what the pictures below call truth."""
    from scipy import ndimage
    from skimage import color, filters, measure, morphology, segmentation

    stain = ndimage.gaussian_filter(color.rgb2hed(tissue)[..., 0], 1.5)
    inside = ndimage.binary_opening(stain > filters.threshold_otsu(stain), iterations=2)
    depth = ndimage.gaussian_filter(ndimage.distance_transform_edt(inside), 1.5)
    seeds = measure.label(morphology.h_maxima(depth, 0.6))
    return segmentation.watershed(-depth, seeds, mask=inside).astype(np.uint16)


def spoiled(ids: np.ndarray, share: float, seed: int = 0) -> np.ndarray:
    """Ids with errors on purpose: that share of the objects lost, merged, cut and invented each."""
    from scipy import ndimage

    rng = np.random.default_rng(seed)
    made = ids.copy()
    labels = rng.permutation(np.unique(ids)[1:])
    count = round(share * labels.size)
    made[np.isin(made, labels[:count])] = 0
    for label in labels[count : 2 * count]:
        ring = np.unique(ids[ndimage.binary_dilation(ids == label, iterations=3)])
        beside = [other for other in ring if other not in (0, label)]
        if beside:
            made[made == beside[0]] = label
    for label in labels[2 * count : 3 * count]:
        y, x = np.nonzero(made == label)
        left = x < np.median(x) if x.size else np.zeros(0, bool)
        made[y[left], x[left]] = ids.max() + label
    rows, columns = np.ogrid[: ids.shape[0], : ids.shape[1]]
    for y, x in rng.integers(8, min(ids.shape) - 8, (3 * count, 2)):
        disc = (rows - y) ** 2 + (columns - x) ** 2 < 40
        if not made[disc].any():
            made[disc] = made.max() + 1
    return made


def tiles(plane: np.ndarray) -> np.ndarray:
    """A plane cut into 16."""
    return np.stack([p for row in np.split(plane, 4) for p in np.split(row, 4, axis=1)])


def shot_evaluate() -> None:
    """Stained tissue, a prediction with errors on purpose, and two of those compared."""
    viewer = napari.Viewer(show=True)
    viewer.window.resize(*SIZE)
    viewer.open_sample(PLUGIN, "ihc")
    tissue = np.asarray(viewer.layers["ihc"].data)
    truth = stained_nuclei(tissue)
    viewer.add_labels(truth, name="truth", visible=False)
    viewer.add_labels(spoiled(truth, 0.08), name="prediction")
    _, panel = viewer.window.add_plugin_dock_widget(PLUGIN, "Evaluate")
    wait(1.0)
    viewer.fit_to_view()
    run(panel)
    viewer.layers["prediction"].visible = False
    save(viewer, "evaluate")
    viewer.layers.clear()

    viewer.add_image(tiles(tissue), name="tissue", rgb=True)
    viewer.add_labels(tiles(truth), name="truth", visible=False)
    for name, share, seed in (("before", 0.12, 1), ("after", 0.05, 2)):
        viewer.add_labels(tiles(spoiled(truth, share, seed)), name=name, visible=False)
    panel.layers.choice.choose(*(viewer.layers[name] for name in ("before", "truth", "after")))
    panel.layers.image.layer = viewer.layers["tissue"]
    run(panel)
    viewer.layers["after · errors"].visible = False
    panel.results.which.setCurrentIndex(1)
    panel.results.worst.selectRow(2)
    panel.results.worst.cellClicked.emit(2, 0)
    bar = panel.scroll.verticalScrollBar()
    bar.setValue(panel.results.mapTo(panel.scroll.widget(), panel.results.pos()).y() - 40)
    save(viewer, "evaluate_compare")
    viewer.close()


def shot_report() -> None:
    """The HTML report of two predictions compared, drawn by Chromium."""
    from dinoscope.datasets.samples import ihc
    from dinoscope.engine.evaluate import Case, scorer_for
    from dinoscope.engine.evaluate.compare import compare
    from dinoscope.engine.report import write_report

    tissue = np.asarray(ihc()[0][0])
    truth = stained_nuclei(tissue)
    found = {}
    for name, share, seed in (("before", 0.12, 1), ("after", 0.05, 2)):
        scorer = scorer_for("instance")
        parts = zip(tiles(truth), tiles(spoiled(truth, share, seed)), tiles(tissue), strict=True)
        for number, (true, said, pixels) in enumerate(parts):
            scorer.add(Case("tissue", number, true, said, pixels.transpose(2, 0, 1)))
        found[name] = scorer.finish()
    with tempfile.TemporaryDirectory() as folder:
        about = {"truth": "nuclei by their colour", "predictions": "errors made on purpose"}
        files = write_report(folder, found, about, compare(*found.values()))
        subprocess.run(
            [
                *("chromium", "--headless", "--no-sandbox", "--hide-scrollbars", "--disable-gpu"),
                *("--window-size=1180,1500", f"--screenshot={IMAGES / 'report.png'}"),
                files["html"].as_uri(),
            ],
            check=True,
        )


def open_features(sample: str) -> tuple[napari.Viewer, Any]:
    """A window with a sample and the Features panel, the worker warm."""
    viewer = napari.Viewer(show=True)
    viewer.window.resize(*SIZE)
    viewer.open_sample(PLUGIN, sample)
    _, panel = viewer.window.add_plugin_dock_widget(PLUGIN, "Features")
    until(lambda: panel.controller.models, "the list of models")
    viewer.fit_to_view()
    return viewer, panel


def look(panel: Any, mode: str) -> None:
    """Press the button of a mode and wait for the end."""
    panel.modes.mode = mode
    panel.runbar.run.click()
    until(lambda: not panel.busy, mode)
    if panel.runbar.status.property("tone") == "error":
        raise RuntimeError(panel.runbar.status.text())


def lasso(panel: Any, low: tuple[float, float], high: tuple[float, float]) -> None:
    """Draw an ellipse in the plot between two corners, given in quantiles of the points."""
    plot = panel.linked.dock.plot
    place = plot.screen()[:, :2]
    corners = [[np.quantile(place[:, axis], q[axis]) for axis in range(2)] for q in (low, high)]
    middle, reach = np.mean(corners, axis=0), np.abs(np.diff(corners, axis=0)[0]) / 2
    around = np.linspace(0, 2 * np.pi, 60)
    path = middle + reach * np.column_stack([np.cos(around), np.sin(around)])
    plot.lassoed.emit(plot.points_in(path), "new")


def shot_features() -> None:
    """Stained tissue: colours, a linked plot of patches, a search for what looks alike."""
    viewer, panel = open_features("ihc")
    look(panel, "colours")
    save(viewer, "features_colours")
    viewer.layers["ihc · PCA"].visible = False
    look(panel, "plot")
    panel.linked.colour("cluster:kmeans")
    until(lambda: not panel.busy, "the clusters")
    lasso(panel, (0.0, 0.2), (0.3, 1.0))
    wait()
    viewer.fit_to_view()
    save(viewer, "features_plot")
    panel.linked.close()
    look(panel, "similar")
    tissue = viewer.layers["ihc"]
    for place, positive in (((200, 100), True), ((400, 300), True), ((300, 190), False)):
        panel.similarity.add_click(tissue.data_to_world(place), positive=positive)
        until(lambda: not panel.similarity._asker.busy, "the scores")
    wait()
    viewer.fit_to_view()
    save(viewer, "features_alike")
    viewer.close()


def shot_features_objects() -> None:
    """One cell and its neighbours as objects, in three axes, in the light theme."""
    viewer, predict = open_viewer("ihc")
    predict.tasks.wanted = ["instance"]
    run(predict)
    viewer.theme = "light"
    _, panel = viewer.window.add_plugin_dock_widget(PLUGIN, "Features")
    wait()
    panel.plot.what.key = "objects"
    panel.plot.objects.layer = viewer.layers["ihc · instances"]
    panel.plot.dimensions.key = "3"
    look(panel, "plot")
    panel.linked.colour("feature:area_px")
    lasso(panel, (0.6, 0.0), (1.0, 0.6))
    viewer.layers["ihc · instances"].opacity = 0.3
    viewer.fit_to_view()
    save(viewer, "features_objects")
    viewer.close()


def teach(viewer: napari.Viewer, image: Any, truth: Any, folder: str, minutes: float) -> None:
    """Fine-tune on a layer and its labels; Predict and Features then offer the model ``tuned``."""
    _, school = viewer.window.add_plugin_dock_widget(PLUGIN, "Fine-tune")
    wait()
    school.source.combo.layer, school.labels.layer = image, truth
    school.add.click()
    school.minutes.value = minutes
    school.output.setText(str(Path(folder) / "tuned.dinoscope"))
    run(school)


def before_and_after(
    name: str,
    lesson: tuple[np.ndarray, np.ndarray],
    exam: tuple[np.ndarray, np.ndarray],
    minutes: float = 3,
    zoom: float | None = None,
) -> None:
    """Teach the embedded model an image and its objects; Evaluate and Features on another one."""
    viewer = napari.Viewer(show=True)
    viewer.window.resize(*SIZE)
    _, predict = viewer.window.add_plugin_dock_widget(PLUGIN, "Predict")
    until(lambda: predict.controller.models, "the list of models")
    rgb = lesson[0].ndim == 3
    teacher = viewer.add_image(lesson[0], name="lesson", rgb=rgb, visible=False)
    taught = viewer.add_labels(lesson[1], name="lesson truth", visible=False)
    image = viewer.add_image(exam[0], name=name, rgb=rgb)
    truth = viewer.add_labels(exam[1], name="truth", visible=False)
    made = {}
    with tempfile.TemporaryDirectory() as folder:
        for when in ("before", "after"):
            predict.source.combo.layer = image
            predict.tasks.wanted = ["instance"]
            run(predict)
            ids = np.array(viewer.layers[f"{name} · instances"].data)
            made[when] = viewer.add_labels(ids, name=when, visible=False)
            if when == "before":
                teach(viewer, teacher, taught, folder, minutes)
                until(lambda: predict.model.label == "tuned", "the tuned model")
        viewer.layers.remove(f"{name} · instances")
        _, panel = viewer.window.add_plugin_dock_widget(PLUGIN, "Evaluate")
        wait()
        panel.layers.choice.choose(made["before"], truth, made["after"])
        panel.layers.image.layer = image
        run(panel)
        viewer.layers["before · errors"].visible = False
        viewer.fit_to_view()
        save(viewer, f"evaluate_{name}_lora")
        viewer.layers["after · errors"].visible = False

        _, panel = viewer.window.add_plugin_dock_widget(PLUGIN, "Features")
        until(lambda: panel.model.label == "tuned", "the tuned model")
        inside = viewer.add_labels((exam[1] > 0).astype("uint8") + 1, name="inside", visible=False)
        panel.source.combo.layer = viewer.layers.selection.active = image
        panel.tokens.adapter.key = "both"
        if zoom:
            panel.tokens.controls["zoom"].value = zoom
        look(panel, "colours")
        look(panel, "plot")
        key = f"labels:{inside.unique_id}"
        panel.linked.dock.choose_colour(key)
        panel.linked.dock.colour_chosen.emit(key)
        until(lambda: not panel.busy, "the colours")
        panel.numbers.classes.key = key
        look(panel, "numbers")
        viewer.fit_to_view()
        save(viewer, f"features_{name}_lora")
    viewer.close()


def shot_tissue_lora() -> None:
    """Stained tissue: taught on its left half, looked at on its right half."""
    from dinoscope.datasets.samples import ihc

    tissue = np.asarray(ihc()[0][0])
    truth = stained_nuclei(tissue)
    before_and_after("tissue", (tissue[:, :256], truth[:, :256]), (tissue[:, 256:], truth[:, 256:]))


def shot_cell_lora() -> None:
    """A cell in phase contrast: taught as it is, looked at turned, darker and with noise."""
    from scipy import ndimage
    from skimage import filters, measure

    from dinoscope.datasets.samples import cell

    pixels = np.asarray(cell()[0][0])
    smooth = filters.gaussian(pixels, 2, preserve_range=True)
    inside = ndimage.binary_fill_holes(smooth > filters.threshold_otsu(smooth))
    truth = measure.label(ndimage.binary_opening(inside, iterations=4)).astype(np.uint16)
    turned = np.rot90(pixels, 2).astype(float) * 0.7
    turned += np.random.default_rng(0).normal(0, 3, turned.shape)
    exam = turned.clip(0, 255).astype(np.uint8), np.rot90(truth, 2).copy()
    before_and_after("cell", (pixels, truth), exam, minutes=1, zoom=0.75)


def main(names: list[str]) -> None:
    """Make the pictures that are asked for."""
    shots = {n.removeprefix("shot_"): f for n, f in globals().items() if n.startswith("shot_")}
    with notification_manager:
        for name in names or list(shots):
            shots[name]()
            wait()


if __name__ == "__main__":
    main(sys.argv[1:])
