"""``python -m pifi_probe``: the same as ``pifi-probe``."""

import sys

from pifi_probe.cli import main

if __name__ == "__main__":
    sys.exit(main())
