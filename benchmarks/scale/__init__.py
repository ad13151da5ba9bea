"""How many jobs/s one broker and one database carry: real workers, with a stand-in for the device.

``python -m benchmarks.scale``; see :mod:`benchmarks.scale.standin_worker` for what is replaced.
"""
