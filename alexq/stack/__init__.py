"""The embedded stack: broker, database, worker and monitor as child processes of one supervisor."""
