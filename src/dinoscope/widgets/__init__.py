"""The window: the only folder that imports napari, qtpy, magicgui and superqt."""
