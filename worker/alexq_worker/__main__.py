"""``python -m alexq_worker``: one worker process, configured by ``ALEXQ_`` variables."""

import sys

from alexq_worker.app import main

sys.exit(main())
