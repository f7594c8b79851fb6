"""``python -m dinoscope``: the command line."""

from __future__ import annotations

import sys

from dinoscope.cli import main

sys.exit(main())
