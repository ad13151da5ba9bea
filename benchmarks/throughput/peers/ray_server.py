"""A Ray Serve application: requests are decoded in threads as they come, and inferred by ``@serve.batch``."""

from __future__ import annotations

import os
import signal
import threading

import ray
from ray import serve
from starlette.requests import Request

from alexq_worker.inference.crops import Picture
from benchmarks.throughput.peers.stages import Stages, setting


@serve.deployment
class Classifier:
    """One replica: decode threads and a model."""

    def __init__(self) -> None:
        _listen_on_loopback()
        self._stages = Stages()

    async def __call__(self, request: Request) -> int:
        """Return the class index of the image in the body."""
        picture = await self._stages.decode_soon(await request.body())
        best: int = await self.best(picture)
        return best

    @serve.batch(
        max_batch_size=setting("max_batch"),
        batch_wait_timeout_s=setting("wait_ms") / 1_000,
        max_concurrent_batches=2,
    )
    async def best(self, pictures: list[Picture]) -> list[int]:
        """Return the class index of each picture; the next batch fills meanwhile."""
        return await self._stages.best_soon(pictures)


def _listen_on_loopback() -> None:
    """Bind the replica's gRPC port to loopback: Ray binds it to all addresses, without authentication."""
    from ray.serve._private import replica

    bind = replica.add_port_to_grpc_server
    replica.add_port_to_grpc_server = lambda server, address: bind(
        server, address.replace("[::]", "127.0.0.1")
    )


def main() -> None:
    """Serve on the port in ``BENCH_PORT`` until SIGTERM."""
    stopped = threading.Event()
    ray.init(
        num_cpus=setting("workers"),
        include_dashboard=False,
        _node_ip_address="127.0.0.1",
        _temp_dir=os.environ["BENCH_RAY_DIR"],
        object_store_memory=200_000_000,
        log_to_driver=False,
    )
    signal.signal(signal.SIGTERM, lambda *_: stopped.set())
    serve.start(http_options={"host": "127.0.0.1", "port": int(os.environ["BENCH_PORT"])})
    deployment = Classifier.options(
        num_replicas=setting("workers"),
        max_ongoing_requests=4 * setting("max_batch"),
        ray_actor_options={"num_cpus": 1},
    )
    serve.run(deployment.bind(), name="classifier", route_prefix="/classify")
    stopped.wait()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
