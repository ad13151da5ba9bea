"""Claim, decode, forward, commit: batches that seal late. Knows no torch, Celery, Redis or SQL."""
