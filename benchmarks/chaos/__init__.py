"""A fault campaign: real processes and real servers are killed, paused, restarted and starved under load.

``python -m benchmarks.chaos --profile short|full``; the report says what was lost, done twice or wrong.
"""
