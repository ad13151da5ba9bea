"""Requests and answers of the Open Inference Protocol (KServe's v2): images in, labels out, as tensors.

A tensor's elements come in JSON, or after it (the protocol's binary tensor data extension). Bytes in JSON
are base64, as JSON has no bytes; in binary each element follows its length, four bytes, little-endian.

Source: https://github.com/kserve/open-inference-protocol, specification/protocol/inference_rest.md, and
KServe's "Binary Tensor Data Extension".
"""

from __future__ import annotations

import base64
import binascii
import io
import struct
from collections.abc import Iterator, Sequence
from typing import Any, BinaryIO, Final, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from alexq_producer.gateway.entries import Upload, read_upload
from alexq_schema.errors import RequestError
from alexq_schema.job import Job
from alexq_schema.options import Options

Parameters = dict[str, str | bool | int | float]
OutputName = Literal["label", "probability", "index"]

OUTPUTS: Final[dict[OutputName, str]] = {"label": "BYTES", "probability": "FP32", "index": "INT64"}
"""Each output's data type; all have the shape [images, labels], best label first."""

_NUMBERS: Final = {"FP32": "f", "INT64": "q"}


class InputParameters(BaseModel):
    """What a request says of an input; what is not known here, such as MLServer's, does no harm."""

    model_config = ConfigDict(extra="allow")

    binary_data_size: int | None = Field(default=None, ge=0)
    """Bytes of the tensor after the JSON; None: its elements are in ``data``."""


class InputTensor(BaseModel):
    """The images."""

    name: Literal["image"]
    shape: list[int] = Field(min_length=1, max_length=2)
    """``[images]`` or ``[images, 1]``."""
    datatype: Literal["BYTES"]
    parameters: InputParameters = InputParameters()
    data: list[str | list[str]] | None = None
    """Base64 of each encoded image, flat or nested as the shape is."""

    @model_validator(mode="after")
    def _fits(self) -> Self:
        if self.shape[0] < 1 or self.shape[1:] not in ([], [1]):
            raise ValueError(f"shape {self.shape}: give [images] or [images, 1], one image at least")
        if (self.data is None) == (self.parameters.binary_data_size is None):
            raise ValueError("give data or parameters.binary_data_size, one of the two")
        if self.data is not None and len(self.flat()) != self.shape[0]:
            raise ValueError(f"data has {len(self.flat())} elements, the shape says {self.shape[0]}")
        return self

    def flat(self) -> list[str]:
        """Return the elements of ``data``."""
        nested = [one if isinstance(one, list) else [one] for one in self.data or []]
        return [element for one in nested for element in one]


class OutputParameters(BaseModel):
    """How an output is wanted; what is not known here would change its form, and is refused."""

    model_config = ConfigDict(extra="forbid")

    binary_data: bool | None = None
    """Whether its elements follow the JSON; None: as the request says of all."""


class RequestedOutput(BaseModel):
    """An output that is wanted."""

    name: OutputName
    parameters: OutputParameters = OutputParameters()


class RequestParameters(BaseModel):
    """What a request says of itself."""

    model_config = ConfigDict(extra="allow")

    binary_data_output: bool = False
    """Whether the elements of outputs that say nothing else follow the JSON."""
    crops: int | None = None
    top_k: int | None = None
    temperature: float | None = None
    reuse: bool | None = None
    """As :class:`alexq_schema.options.Options`; a least probability would make the outputs ragged."""

    def options(self) -> Options | None:
        """Return how the images are to be classified; None: as ever.

        Raises:
            UsageError: it makes no sense.
        """
        return Options.of(
            self.model_dump(include={"crops", "top_k", "temperature", "reuse"}, exclude_none=True)
        )


class InferRequest(BaseModel):
    """An inference request."""

    id: str | None = Field(default=None, max_length=1024)
    """Comes back in the answer."""
    inputs: list[InputTensor] = Field(min_length=1, max_length=1)
    outputs: list[RequestedOutput] = []
    """None named: all."""
    parameters: RequestParameters = RequestParameters()

    @property
    def count(self) -> int:
        """Images in the request."""
        return self.inputs[0].shape[0]

    @property
    def is_binary(self) -> bool:
        """Whether the images follow the JSON."""
        return self.inputs[0].data is None

    def images(self, rest: BinaryIO, max_image_bytes: int) -> Iterator[Upload]:
        """Yield the images.

        Args:
            rest: what follows the JSON.

        Raises:
            RequestError: one is not base64, or the binary data does not fit what the JSON says of it.
        """
        size = self.inputs[0].parameters.binary_data_size
        if size is not None:
            yield from _of_binary(rest, self.count, size, max_image_bytes)
            return
        for number, element in enumerate(self.inputs[0].flat()):
            try:
                data = base64.b64decode(element, validate=True)
            except (binascii.Error, ValueError) as error:
                raise RequestError(
                    f"image {number} is not base64: {error}; encode it, or send binary data"
                ) from error
            yield Upload(f"image {number}", io.BytesIO(data), len(data))


def read_request(text: bytes, *, has_more: bool) -> InferRequest:
    """Return the request that is written here.

    Args:
        has_more: something follows the JSON.

    Raises:
        RequestError: it is none, or what should follow does not.
    """
    try:
        request = InferRequest.model_validate_json(text)
    except ValidationError as error:
        told = "; ".join(
            f"{'.'.join(map(str, one['loc'])) or 'JSON'}: {one['msg']}" for one in error.errors()
        )
        raise RequestError(f"the inference request: {told}") from error
    if request.is_binary != has_more:
        raise RequestError(
            "binary_data_size and the header Inference-Header-Content-Length, which says how long the JSON "
            "before the binary data is, belong together"
        )
    return request


def _of_binary(rest: BinaryIO, count: int, size: int, max_image_bytes: int) -> Iterator[Upload]:
    left = size
    for number in range(count):
        length = int.from_bytes(b"".join(_exactly(rest, 4)), "little")
        left -= 4 + length
        if left < 0:
            raise RequestError(f"image {number} reaches beyond the binary_data_size of {size:,} bytes")
        yield read_upload(f"image {number}", _exactly(rest, length), max_image_bytes)
    if left or rest.read(1):
        raise RequestError(f"the binary data holds more than the {count:,} images of the shape")


def _exactly(rest: BinaryIO, count: int) -> Iterator[bytes]:
    while count:
        piece = rest.read(min(count, 2**16))
        if not piece:
            raise RequestError("the binary data ends before the tensor does: send it whole")
        count -= len(piece)
        yield piece


class TensorMetadata(BaseModel):
    """A tensor of a model."""

    name: str
    datatype: str
    shape: list[int]
    """-1: any."""


class OutputTensor(TensorMetadata):
    """An output of an inference."""

    parameters: Parameters | None = None
    """``binary_data_size``, where the elements follow the JSON."""
    data: list[str | int | float] | None = None


class InferResponse(BaseModel):
    """An inference response."""

    model_name: str
    model_version: str
    id: str | None = None
    parameters: Parameters
    """``submission_id``, and ``job_ids`` in the order of the images, with commas between them."""
    outputs: list[OutputTensor]


def outputs_of(request: InferRequest, jobs: Sequence[Job]) -> tuple[list[OutputTensor], list[bytes]]:
    """Return the outputs that the request wants of these jobs, and the binary data of those it wants so.

    Args:
        jobs: have succeeded, all by one model version.
    """
    wanted = request.outputs or [RequestedOutput(name=name) for name in OUTPUTS]
    tensors: list[OutputTensor] = []
    binaries: list[bytes] = []
    for output in wanted:
        datatype = OUTPUTS[output.name]
        data = [getattr(prediction, output.name) for job in jobs for prediction in job.predictions]
        tensor = OutputTensor(
            name=output.name, datatype=datatype, shape=[len(jobs), len(jobs[0].predictions)]
        )
        is_binary = output.parameters.binary_data
        if request.parameters.binary_data_output if is_binary is None else is_binary:
            binaries.append(_binary(datatype, data))
            tensor.parameters = {"binary_data_size": len(binaries[-1])}
        else:
            tensor.data = data
        tensors.append(tensor)
    return tensors, binaries


def _binary(datatype: str, data: Sequence[Any]) -> bytes:
    if datatype == "BYTES":
        elements = [element.encode() for element in data]
        return b"".join(len(element).to_bytes(4, "little") + element for element in elements)
    return struct.pack(f"<{len(data)}{_NUMBERS[datatype]}", *data)
