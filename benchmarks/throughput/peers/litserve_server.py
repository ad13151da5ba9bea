"""A LitServe server: batches of raw bodies, decoded in threads as LitServe's own image benchmark does."""

import os
from typing import Annotated

import litserve
from fastapi import Body

from benchmarks.throughput.peers.stages import Stages, setting


class Classifier(litserve.LitAPI):
    """Takes the body of a request that is not JSON, and answers with the class index."""

    def setup(self, device: str) -> None:
        """Load the model in the worker's process."""
        self._stages = Stages()

    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> bytes:
        """Leave it to ``batch``: requests are decoded one after the other here."""
        return request

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        """Leave them apart."""
        return inputs

    def predict(self, x: list[bytes]) -> list[int]:
        """Return class indices."""
        return self._stages.classify(x)

    def unbatch(self, output: list[int]) -> list[int]:
        """Return one class index for each request."""
        return output


def main() -> None:
    """Serve on the port in ``BENCH_PORT``."""
    api = Classifier(max_batch_size=setting("max_batch"), batch_timeout=setting("wait_ms") / 1_000)
    server = litserve.LitServer(
        api,
        accelerator="cpu",
        devices=1,
        workers_per_device=setting("workers"),
        fast_queue=bool(setting("fast_queue")),
        timeout=120,
    )
    server.run(
        host="127.0.0.1",
        port=int(os.environ["BENCH_PORT"]),
        num_api_servers=setting("api_servers"),
        generate_client_file=False,
        log_level="warning",
        access_log=False,
    )


if __name__ == "__main__":
    main()
