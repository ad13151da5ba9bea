"""What the Celery rows' workers and their client agree on."""

from __future__ import annotations

from typing import Any

from celery import Celery

CLASSIFY = "bench.classify"


def configured(url: str, **more: Any) -> Celery:
    """Return an app on a Redis broker and result backend; it acknowledges tasks when they are done."""
    app = Celery("bench", broker=url, backend=url)
    app.conf.update(
        task_serializer="json",
        result_serializer="json",
        accept_content=["json"],
        task_acks_late=True,
        result_expires=600,
        worker_send_task_events=False,
        task_send_sent_event=False,
        worker_enable_remote_control=False,
        worker_proc_alive_timeout=120.0,  # 4 s by default: less than a model takes to load
        broker_connection_retry_on_startup=True,
        **more,
    )
    return app
