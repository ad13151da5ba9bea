"""The webhook worker: tells receivers that jobs have ended, from the outbox in SQL.

Threads: Celery's main thread takes messages; those of its pool make one attempt each; one looks for what is
due (:mod:`alexq_producer.webhooks.dispatcher`). SQL decides who may do what, so any number of these processes
may run, and any of them may be killed at any time.
"""
