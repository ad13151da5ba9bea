"""How images are to be classified: parameters that several operations take."""

from __future__ import annotations

from typing import Annotated

from fastapi import Depends, Query

from alexq_schema import options
from alexq_schema.job import TOP_K
from alexq_schema.options import Options

PinnedModel = Annotated[
    str | None,
    Query(
        max_length=129,
        description="`name/version` of the model version that does it; by default whichever is active.",
    ),
]
Crops = Annotated[
    options.Crops,
    Query(
        description="10: the average of the four corners, the centre and their mirror images, for ten times "
        "the work."
    ),
]
TopK = Annotated[options.TopK, Query(description="Labels of the answer, at most as many as the model has.")]
MinProbability = Annotated[
    options.MinProbability,
    Query(description="Labels that are less likely are left out, all of them perhaps."),
]
Temperature = Annotated[
    options.Temperature,
    Query(
        description="What the outputs are divided by before the softmax: above 1, more even probabilities."
    ),
]
Reuse = Annotated[
    bool,
    Query(
        description="Whether a past result of yours, for the same bytes, version and options, may answer at "
        "once; `reused_from` then names its job."
    ),
]


async def how(
    crops: Crops = options.Crops.ONE,
    top_k: TopK = TOP_K,
    min_probability: MinProbability = 0.0,
    temperature: Temperature = 1.0,
    reuse: Reuse = False,
) -> Options | None:
    """Return the options that are not as ever; a coroutine, as FastAPI would run a function in a thread."""
    return Options.of(
        {
            "crops": crops,
            "top_k": top_k,
            "min_probability": min_probability,
            "temperature": temperature,
            "reuse": reuse,
        }
    )


How = Annotated[Options | None, Depends(how)]
