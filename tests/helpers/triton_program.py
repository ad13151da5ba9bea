"""What a user of ``tritonclient`` writes: argv is address, key, model, and image files; prints JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from tritonclient.http import InferenceServerClient, InferInput, InferRequestedOutput
from tritonclient.utils import InferenceServerException

address, key, model, *files = sys.argv[1:]
headers = {"Authorization": f"Bearer {key}"}
client = InferenceServerClient(address)
images = np.array([Path(file).read_bytes() for file in files], dtype=np.object_)
image = InferInput("image", [len(images)], "BYTES")
image.set_data_from_numpy(images)
of_all = client.infer(model, [image], headers=headers, request_id="42")
named = client.infer(
    model,
    [image],
    headers=headers,
    outputs=[InferRequestedOutput("label"), InferRequestedOutput("index", binary_data=False)],
)
image.set_data_from_numpy(np.array([b"This is no picture."] * len(images), dtype=np.object_))
try:
    client.infer(model, [image], headers=headers)
    refused = None
except InferenceServerException as error:
    refused = [error.status(), error.message()]
told = {
    "server": client.get_server_metadata(),
    "is_live": client.is_server_live(),
    "is_ready": client.is_server_ready(),
    "is_model_ready": client.is_model_ready(model, headers=headers),
    "model": client.get_model_metadata(model, headers=headers),
    "id": of_all.get_response()["id"],
    "labels": [[label.decode() for label in row] for row in of_all.as_numpy("label")],
    "probabilities": of_all.as_numpy("probability").tolist(),
    "indexes": of_all.as_numpy("index").tolist(),
    "named": [named.as_numpy("label").shape, named.as_numpy("index").tolist(), named.as_numpy("probability")],
    "refused": refused,
}
sys.stdout.write(json.dumps(told))
