"""The commands of the command line, one module each; ``dinoscope.cli`` is their entry point.

A command's module offers ``add_parser(subparsers)`` and ``run(args, report) -> int``; at its top it
imports nothing that imports NumPy, so that ``dinoscope --help`` answers at once.
"""
