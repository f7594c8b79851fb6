"""Project folders: annotations, classes, images and rounds that survive a crash at any moment."""

from dinoscope.project.annotations import PlaneObjects
from dinoscope.project.project import Project, opened
from dinoscope.project.references import ImageRef, content_hash
from dinoscope.project.rounds import Round
from dinoscope.project.state import LAYERS, ClassEntry

__all__ = [
    "LAYERS",
    "ClassEntry",
    "ImageRef",
    "PlaneObjects",
    "Project",
    "Round",
    "content_hash",
    "opened",
]
