"""``python -m alexq_worker.training``: the process that runs queued trainings, configured by ``ALEXQ_…``."""

import os
import sys

# Read by Celery when it is imported: SIGTERM ends a training, which has a checkpoint, at once.
os.environ.setdefault("REMAP_SIGTERM", "SIGQUIT")

from alexq_worker.training.service import main

if __name__ == "__main__":
    sys.exit(main())
