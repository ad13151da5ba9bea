"""A Mosec server: a stage of decode processes, then one of inference with dynamic batching."""

from __future__ import annotations

from mosec import Server, Worker
from mosec.errors import DecodingError

from alexq_schema.errors import AlexqError
from benchmarks.throughput.peers.stages import Pixels, decoder, setting


class Decode(Worker):
    """One image in, its pixels out."""

    def __init__(self) -> None:
        super().__init__()
        self._decoder = decoder()

    def deserialize(self, data: bytes) -> bytes:
        """Take the body as it is."""
        return data

    def forward(self, data: bytes) -> bytes:
        """Return uint8[crop, crop, 3]."""
        try:
            return self._decoder.decode(data).image.tobytes()
        except AlexqError as error:
            raise DecodingError(str(error)) from error

    def serialize_ipc(self, data: bytes) -> bytes:
        """Hand the pixels on without pickle."""
        return data


class Infer(Worker):
    """A batch of pixels in, the best class of each out, as JSON."""

    def __init__(self) -> None:
        super().__init__()
        from benchmarks.throughput.model import Model

        self._model = Model.from_environment()

    def deserialize_ipc(self, data: bytes) -> Pixels:
        """Take the pixels as they are."""
        return Pixels(data)

    def forward(self, data: list[Pixels]) -> list[int]:
        """Return class indices."""
        return self._model.best(data)


def main() -> None:
    """Serve; the command line has Mosec's own options."""
    server = Server()
    server.append_worker(Decode, num=setting("decode_processes"))
    server.append_worker(
        Infer,
        num=setting("workers"),
        max_batch_size=setting("max_batch"),
        max_wait_time=setting("wait_ms"),
    )
    server.run()


if __name__ == "__main__":
    main()
