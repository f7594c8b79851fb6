"""Backbone, adapter, heads and model files: torch, timm and peft; knows no task."""
