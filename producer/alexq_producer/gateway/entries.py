"""The images of a request, one at a time: from multipart, tar, zip, lines of JSON, JSON or the bare body.

Everything here runs in a thread and pulls: an image is taken from the stream when the one before is stored.
"""

from __future__ import annotations

import base64
import binascii
import io
import tarfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, BinaryIO, Final, Self

from multipart import MultipartError, MultipartSegment, PushMultipartParser, parse_options_header
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from stream_unzip import UnzipError, stream_unzip

from alexq_producer.gateway.bodies import PieceReader, spool
from alexq_schema.errors import MediaTypeError, RequestError, RequestTooLargeError
from alexq_schema.messages import Sha256
from alexq_schema.outward import MAX_URL_LENGTH, named

SPECIAL_HEADER_BYTES: Final = 2**20
"""Long names and other attributes in a tar are read into memory; more than this is no honest archive."""


@dataclass(frozen=True, slots=True)
class Upload:
    """An image that came with the request."""

    source: str
    file: BinaryIO
    """Up to one byte more than allowed; whoever takes the entry closes it."""
    image_bytes: int


@dataclass(frozen=True, slots=True)
class Reference:
    """An image that is in the store already."""

    source: str
    image_key: str


@dataclass(frozen=True, slots=True)
class Remote:
    """An image that is at a URL."""

    source: str
    url: str


Entry = Upload | Reference | Remote


class ImageReference(BaseModel):
    """An image in JSON: its bytes in base64, its URL, or the key of one that was submitted before."""

    model_config = ConfigDict(extra="forbid")

    image_base64: str | None = Field(default=None, examples=["iVBORw0KGgo…"])
    image_url: str | None = Field(
        default=None,
        max_length=MAX_URL_LENGTH,
        description="Where the image is, on a host of `ALEXQ_IMAGE_URL_HOSTS`; fetched before the answer.",
        examples=["https://images.example.com/cat.jpg"],
    )
    image_key: Annotated[
        Sha256 | None,
        Field(
            description="A job's `image_key`: the SHA-256 of an image that you submitted before.",
            examples=["9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"],
        ),
    ] = None
    source: str = Field(default="", max_length=1024, examples=["cat.jpg"])

    @model_validator(mode="after")
    def _one_image(self) -> Self:
        if [self.image_base64, self.image_url, self.image_key].count(None) != 2:
            raise ValueError("give image_base64, image_url or image_key, one of the three")
        return self


class Carrier(StrEnum):
    """How a request for one job carries its image."""

    BODY = "application/octet-stream"
    FORM = "multipart/form-data"
    JSON = "application/json"

    @classmethod
    def of(cls, content_type: str) -> Self:
        """Return how a body of this type carries an image.

        Raises:
            MediaTypeError: it cannot.
        """
        kind, _ = parse_options_header(content_type)
        try:
            return cls.BODY if kind.startswith("image/") else cls(kind)
        except ValueError as error:
            raise MediaTypeError(
                f"Content-Type {content_type or 'missing'!r}: send the image itself as image/jpeg, "
                "image/png, image/webp or image/gif, as a file in multipart/form-data, or application/json"
            ) from error


def one_of(file: BinaryIO, content_type: str, source: str, max_image_bytes: int) -> Iterator[Entry]:
    """Yield the image of a request for one job, whose whole body is in ``file``.

    Raises:
        RequestError: the body is malformed, or holds several images.
        MediaTypeError: it is of no type that can carry an image.
    """
    carrier = Carrier.of(content_type)
    if carrier is Carrier.BODY:
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        yield Upload(source or "image 0", file, size)
    elif carrier is Carrier.FORM:
        pieces = iter(lambda: file.read(2**16), b"")
        boundary = parse_options_header(content_type)[1].get("boundary", "")
        for number, entry in enumerate(_of_multipart(pieces, boundary, max_image_bytes)):
            if number:
                entry.file.close()
                raise RequestError("the form holds several files: POST /v1/submissions takes many images")
            yield entry if not source else Upload(source, entry.file, entry.image_bytes)
    else:
        yield _of_json(file.read(), source, "image 0", "the body")


def many_of(
    pieces: Iterator[bytes], content_type: str, *, max_image_bytes: int, max_bytes: int
) -> Iterator[Entry]:
    """Yield the images of a request for many jobs.

    Args:
        max_bytes: of all images together, unpacked.

    Raises:
        RequestError: the body is malformed.
        RequestTooLargeError: it unpacks to more than ``max_bytes``.
        MediaTypeError: it is of no type that can carry many images.
    """
    kind, options = parse_options_header(content_type)
    if kind == "multipart/form-data":
        yield from _of_multipart(pieces, options.get("boundary", ""), max_image_bytes)
    elif kind == "application/x-tar":
        yield from _of_tar(pieces, max_image_bytes, max_bytes)
    elif kind == "application/zip":
        yield from _of_zip(pieces, max_image_bytes, max_bytes)
    elif kind in ("application/x-ndjson", "application/jsonl"):
        yield from _of_lines(pieces, 2 * max_image_bytes)
    else:
        raise MediaTypeError(
            f"Content-Type {content_type or 'missing'!r}: send multipart/form-data, application/x-tar "
            "(not compressed), application/zip or application/x-ndjson"
        )


def _of_multipart(pieces: Iterator[bytes], boundary: str, max_image_bytes: int) -> Iterator[Upload]:
    try:
        with PushMultipartParser(boundary, strict=True) as parser:
            events = (event for piece in pieces for event in parser.parse(piece))
            for event in events:
                assert isinstance(event, MultipartSegment)
                yield read_upload(_name(event), iter(events.__next__, None), max_image_bytes)
    except MultipartError as error:
        raise RequestError(f"the multipart body is malformed: {error}") from error


def _name(segment: MultipartSegment) -> str:
    if segment.filename is None:
        raise RequestError(
            f"the multipart field {segment.name!r} is no file: give each image a file name, "
            "and options as parameters of the URL"
        )
    return str(segment.filename or segment.name)


class _BoundedTarInfo(tarfile.TarInfo):
    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> Self:
        member = super().frombuf(buf, encoding, errors)
        if not member.isreg() and member.size > SPECIAL_HEADER_BYTES:
            raise tarfile.ReadError(f"a header of {member.size:,} bytes")
        return member


def _of_tar(pieces: Iterator[bytes], max_image_bytes: int, max_bytes: int) -> Iterator[Upload]:
    unpacked = 0
    try:
        stream: Any = PieceReader(pieces)
        with tarfile.open(fileobj=stream, mode="r|", bufsize=2**16, tarinfo=_BoundedTarInfo) as archive:
            for member in archive:
                unpacked += member.size
                _check_unpacked(unpacked, max_bytes)
                if member.isreg() and _is_wanted(member.name):
                    content = archive.extractfile(member)
                    assert content is not None
                    chunks = iter(lambda content=content: content.read(2**16), b"")  # type: ignore[misc]
                    yield read_upload(member.name, chunks, max_image_bytes)
    except tarfile.TarError as error:
        raise RequestError(f"the body is no tar archive that can be read: {error}") from error


def _of_zip(pieces: Iterator[bytes], max_image_bytes: int, max_bytes: int) -> Iterator[Upload]:
    unpacked = 0

    def counted(chunks: Iterable[bytes]) -> Iterator[bytes]:
        nonlocal unpacked
        for chunk in chunks:
            unpacked += len(chunk)
            _check_unpacked(unpacked, max_bytes)
            yield chunk

    try:
        for raw_name, _size, chunks in stream_unzip(pieces):
            name, content = raw_name.decode("utf-8", "replace"), counted(chunks)
            if not name.endswith("/") and _is_wanted(name):
                yield read_upload(name, content, max_image_bytes)
            for _ in content:  # the next begins where this one ends
                pass
    except UnzipError as error:
        reason = str(error) or type(error).__name__
        raise RequestError(f"the body is no ZIP archive that can be read: {reason}") from error


def _check_unpacked(unpacked: int, max_bytes: int) -> None:
    if unpacked > max_bytes:
        raise RequestTooLargeError(
            f"the archive unpacks to more than {max_bytes:,} bytes (ALEXQ_MAX_SUBMISSION_BYTES): "
            "send it in parts"
        )


def _is_wanted(name: str) -> bool:
    """Return whether a person put this file there: not macOS, which adds some to every archive."""
    *folders, file = name.split("/")
    return "__MACOSX" not in folders and file != ".DS_Store" and not file.startswith("._")


def _of_lines(pieces: Iterator[bytes], max_line_bytes: int) -> Iterator[Entry]:
    lines = io.BufferedReader(PieceReader(pieces), 2**16)
    for number in range(1, 2**31):
        line = lines.readline(max_line_bytes + 1)
        if len(line) > max_line_bytes:
            raise RequestTooLargeError(f"line {number} has more than {max_line_bytes:,} bytes")
        if not line:
            return
        if line.strip():
            yield _of_json(line, "", f"line {number}", f"line {number}")


def _of_json(text: bytes, source: str, unnamed: str, where: str) -> Entry:
    try:
        reference = ImageReference.model_validate_json(text)
    except ValidationError as error:
        told = "; ".join(f"{'.'.join(map(str, p['loc'])) or 'JSON'}: {p['msg']}" for p in error.errors())
        raise RequestError(f"{where}: {told}") from error
    source = reference.source or source
    if reference.image_url is not None:
        return Remote(source or named(reference.image_url), reference.image_url)
    name = source or unnamed
    if reference.image_key is not None:
        return Reference(name, reference.image_key)
    assert reference.image_base64 is not None
    try:
        data = base64.b64decode(reference.image_base64, validate=True)
    except (binascii.Error, ValueError) as error:
        raise RequestError(f"{where}: image_base64 is not base64: {error}") from error
    return Upload(name, io.BytesIO(data), len(data))


def read_upload(source: str, chunks: Iterator[bytes], max_image_bytes: int) -> Upload:
    """Return one image of a stream, read to its end; of one that is too large only the beginning is kept."""
    file, size = spool(), 0
    try:
        for chunk in chunks:
            if size <= max_image_bytes:
                file.write(chunk)
            size += len(chunk)
    except BaseException:
        file.close()
        raise
    file.seek(0)
    return Upload(source, file, size)
