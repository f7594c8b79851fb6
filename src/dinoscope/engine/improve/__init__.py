"""The deep loop: a project's annotations become a better model."""
