"""Folders of this user: downloaded backbones and their own models. Standard library only."""

from __future__ import annotations

import os
import sys
from pathlib import Path


def cache_dir() -> Path:
    """Where downloaded backbones live: ``DINOSCOPE_CACHE``, else the platform's cache folder."""
    chosen = os.environ.get("DINOSCOPE_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        return _windows_data() / "dinoscope" / "Cache"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "dinoscope"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "dinoscope"


def models_dir() -> Path:
    """Where the user's own models are looked for: ``DINOSCOPE_MODELS``, else user data."""
    chosen = os.environ.get("DINOSCOPE_MODELS")
    if chosen:
        return Path(chosen).expanduser()
    if sys.platform == "win32":
        base = _windows_data()
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "dinoscope" / "models"


def packaged_dir() -> Path:
    """Where the models that ship with dinoscope live."""
    return Path(__file__).resolve().parent.parent / "weights"


def hub_cache_dir() -> Path:
    """Hugging Face's own cache, where another program may have put a backbone already."""
    chosen = os.environ.get("HF_HUB_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    home = os.environ.get("HF_HOME")
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return (Path(home).expanduser() if home else Path(base) / "huggingface") / "hub"


def _windows_data() -> Path:
    return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
