"""The worker: a Celery consumer in front of a batching pipeline and a resident model."""
