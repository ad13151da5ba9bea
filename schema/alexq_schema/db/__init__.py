"""The SQL side: tables, connections, and every statement, one module a subject."""
