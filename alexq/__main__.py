"""``python -m alexq`` is the ``alexq`` command."""

import sys

from alexq.cli import main

if __name__ == "__main__":
    sys.exit(main())
