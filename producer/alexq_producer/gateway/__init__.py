"""The HTTP gateway: jobs for services that share neither database nor Redis with alexq.

Threads: one event loop answers; everything that blocks (database, store, broker, disk) runs in bounded pools
that :class:`alexq_producer.gateway.core.Core` owns. The loop itself never blocks.
"""
