"""The modules of other folders that start whole runs and hosts."""

import sys
from pathlib import Path

for folder in ("runs", "hosts"):
    sys.path.insert(0, str(Path(__file__).parents[1] / folder))
