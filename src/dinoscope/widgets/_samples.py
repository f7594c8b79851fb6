"""*File ▸ Open Sample ▸ Dinoscope*: the sample images, by the names that the manifest uses."""

from __future__ import annotations

from dinoscope.datasets.samples import cell, ihc, timelapse, zstack

__all__ = ["cell", "ihc", "timelapse", "zstack"]
