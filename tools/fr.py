"""Put the checkout on the path of a tool that is started as a script, and import the package fr from there.

`python tools/x.py` puts tools/ first on the path, so the tool's first `import fr…` finds this file.
"""

import importlib
import sys
from pathlib import Path

if __name__ == "__main__":
    sys.exit("tools/fr.py: no command of its own; tools/*.py import it")
sys.path[0] = str(Path(__file__).resolve().parent.parent)
del sys.modules[__name__]
importlib.import_module(__name__)
