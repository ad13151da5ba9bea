"""Alembic's entry: runs in the connection and transaction that :func:`upgrade` hands in."""

from __future__ import annotations

from alembic import context

from alexq_schema.db import api_keys, deliveries, idempotency, webhooks  # noqa: F401 - they declare tables
from alexq_schema.db.tables import Base

connection = context.config.attributes["connection"]
if connection.dialect.name == "postgresql":
    # Two `alexq migrate` at once: the second waits, then finds nothing to do.
    connection.exec_driver_sql("SELECT pg_advisory_xact_lock(7212210231)")
context.configure(connection=connection, target_metadata=Base.metadata, render_as_batch=True)
context.run_migrations()
