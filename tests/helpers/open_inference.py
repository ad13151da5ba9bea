"""Requests of the Open Inference Protocol, byte for byte as clients of model servers make them."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from typing import Any

import httpx2

BINARY_HEADER = "Inference-Header-Content-Length"


def in_json(images: Sequence[bytes], **others: Any) -> dict[str, Any]:
    """Return a request with the images in base64."""
    data = [base64.b64encode(image).decode() for image in images]
    tensor = {"name": "image", "shape": [len(images)], "datatype": "BYTES", "data": data}
    return {"inputs": [tensor], **others}


def in_binary(images: Sequence[bytes], **others: Any) -> tuple[bytes, dict[str, str]]:
    """Return body and headers of a request with binary data, as tritonclient forms them."""
    packed = b"".join(len(image).to_bytes(4, "little") + image for image in images)
    tensor = {
        "name": "image",
        "shape": [len(images), 1],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(packed)},
    }
    text = json.dumps({"inputs": [tensor], **others}).encode()
    return text + packed, {BINARY_HEADER: str(len(text))}


def elements_of(answer: httpx2.Response) -> dict[str, list[bytes]]:
    """Return the elements of each binary output of an answer, their bytes as they are."""
    length = int(answer.headers[BINARY_HEADER])
    rest, elements = answer.content[length:], {}
    for output in json.loads(answer.content[:length])["outputs"]:
        size = output["parameters"]["binary_data_size"]
        mine, rest, found = rest[:size], rest[size:], []
        width = {"BYTES": 0, "FP32": 4, "INT64": 8}[output["datatype"]]
        while mine:
            if not width:
                count, mine = int.from_bytes(mine[:4], "little"), mine[4:]
            else:
                count = width
            found.append(mine[:count])
            mine = mine[count:]
        elements[output["name"]] = found
    assert not rest
    return elements
