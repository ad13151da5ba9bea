"""Options that commands share, and what they turn into."""

from pathlib import Path
from typing import Annotated, Any

import typer

DataDir = Annotated[
    Path | None,
    typer.Option(
        "--data-dir",
        help="Folder of the embedded stack; by default ALEXQ_DATA_DIR, else the user's data folder.",
        show_default=False,
        file_okay=False,
    ),
]
Server = Annotated[
    str | None,
    typer.Option(
        "--server",
        metavar="URL",
        envvar="ALEXQ_SERVER",
        help="Go through the HTTP gateway at URL, with the key in ALEXQ_API_KEY, instead of directly.",
        show_default=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object a line on stdout.")]
Device = Annotated[
    str | None,
    typer.Option(help="auto, cpu, cuda, cuda:N, mps or cuda:N,cuda:M [ALEXQ_DEVICE].", show_default=False),
]
Precision = Annotated[
    str | None,
    typer.Option(help="auto, fp32, bf16, fp16 on CUDA or int8 on x86 [ALEXQ_PRECISION].", show_default=False),
]
MaxBatch = Annotated[
    int | None,
    typer.Option(help="Images in one forward pass, at most [ALEXQ_MAX_BATCH].", show_default=False),
]
Queue = Annotated[
    str | None,
    typer.Option(
        help="Take jobs of this queue only; by default those of the one without a name [ALEXQ_QUEUE].",
        show_default=False,
    ),
]
Model = Annotated[
    str | None,
    typer.Option(help="NAME/VERSION instead of the active model [ALEXQ_MODEL].", show_default=False),
]
Deadline = Annotated[
    float | None,
    typer.Option(metavar="SECONDS", help="Jobs that no worker has begun by then expire."),
]
Pin = Annotated[
    str | None,
    typer.Option(
        metavar="NAME/VERSION", help="The model version that does them; by default whichever is active."
    ),
]
Class = Annotated[
    str,
    typer.Option(
        metavar="NAME",
        help="Whose workers do them (alexq worker --queue); by default the queue without a name.",
        show_default=False,
    ),
]
CropCount = Annotated[
    int, typer.Option(help="10: average ten crops of each image; ten times the work.", show_default=False)
]
MinProbability = Annotated[
    float, typer.Option(help="Leave out labels that are less likely.", show_default=False)
]
Temperature = Annotated[
    float, typer.Option(help="Above 1: more even probabilities, below: less.", show_default=False)
]
Reuse = Annotated[
    bool, typer.Option("--reuse", help="Past results may answer: same bytes, version and options.")
]


def given(**options: Any) -> dict[str, Any]:
    """Return the options that were given, as overrides for ``Settings.load`` and ``Settings.connected``."""
    return {name: value for name, value in options.items() if value is not None}
