"""A FastAPI service that labels the picture it is sent.

pip install alexq fastapi uvicorn
export ALEXQ_SERVER=http://127.0.0.1:8080      # and ALEXQ_API_KEY, where the gateway has keys
uvicorn fastapi_service:app --port 8000
curl --data-binary @cat.jpg http://127.0.0.1:8000/labels
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI, HTTPException, Request

from alexq import AsyncClient, FailedError, RejectedError, WaitTimeoutError

MAX_BYTES = 20 * 2**20


@asynccontextmanager
async def lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with AsyncClient() as app.state.alexq:  # one for the whole process: it keeps its connections
        yield


app = FastAPI(lifespan=lifespan)


@app.post("/labels")
async def label(request: Request) -> dict[str, object]:
    picture = bytearray()
    async for piece in request.stream():
        picture += piece
        if len(picture) > MAX_BYTES:
            raise HTTPException(413, f"more than {MAX_BYTES:,} bytes")
    try:
        job = await request.app.state.alexq.classify(picture, timeout_s=30)
    except RejectedError as error:  # no picture, for one
        raise HTTPException(422, error.detail) from error
    except WaitTimeoutError as error:  # the job goes on; a service that must have it asks again
        raise HTTPException(504, error.detail) from error
    except FailedError as error:
        raise HTTPException(503, error.detail) from error
    if job.error is not None:  # accepted, but broken further inside
        raise HTTPException(422, job.error.detail)
    return {"label": job.label, "probability": job.probability}
