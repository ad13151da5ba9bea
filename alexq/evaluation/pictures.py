"""The pictures of a report: what is taken for what, how sure it is, and the worst mistakes."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from typing import Final

from alexq.evaluation.measures import Answer, Measures
from alexq_schema.errors import UsageError

_NAMED_LABELS: Final = 40
"""More labels than these are not written beside the matrix."""
_THUMBNAIL: Final = 160
_COLUMNS: Final = 6
_TEXT_HEIGHT: Final = 46


def require_libraries() -> None:
    """Raise UsageError, with what to install, where what draws the pictures is not installed."""
    try:
        import matplotlib  # noqa: F401
        import PIL  # noqa: F401
    except ModuleNotFoundError as error:
        raise UsageError(f'a report needs {error.name}: pip install "alexq[train]"') from error


def draw_confusion(measures: Measures, labels: Sequence[str]) -> bytes:
    """Return a PNG of the confusion matrix, rows as shares of a label's pictures, and of the calibration."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = len(labels)
    totals = [0] * count
    rows = [[0.0] * count for _ in labels]
    for truth, predicted, times in measures.confusion:
        rows[truth][predicted] = times
        totals[truth] += times
    shares = [[times / max(1, total) for times in row] for row, total in zip(rows, totals, strict=True)]
    figure = Figure(figsize=(13, 7), layout="constrained")
    FigureCanvasAgg(figure)
    matrix, calibration = figure.subplots(1, 2, width_ratios=(3, 2))
    image = matrix.imshow(shares, cmap="viridis", vmin=0, vmax=1, interpolation="nearest")
    figure.colorbar(image, ax=matrix, shrink=0.7)
    matrix.set(xlabel="predicted", ylabel="is a")
    if count <= _NAMED_LABELS:
        # A label is text, never a formula between dollars.
        names = [label.replace("$", r"\$") for label in labels]
        matrix.set_xticks(range(count), names, rotation=90)
        matrix.set_yticks(range(count), names)
    calibration.plot([0, 1], [0, 1], color="0.6", linestyle=":")
    calibration.plot([b.probability for b in measures.bins], [b.accuracy for b in measures.bins], marker="o")
    calibration.set(xlabel="probability of the first label", ylabel="accuracy", xlim=(0, 1), ylim=(0, 1.02))
    calibration.set_title(f"calibration error {measures.ece:.3f}")
    calibration.set_aspect("equal")
    file = BytesIO()
    figure.savefig(file, format="png", dpi=110)
    return file.getvalue()


def draw_mistakes(mistakes: Sequence[Answer], labels: Sequence[str]) -> bytes:
    """Return a PNG with each of these pictures over what it is and what it was taken for."""
    from PIL import Image, ImageDraw, ImageFont

    rows = -(-len(mistakes) // _COLUMNS)
    cell = _THUMBNAIL + 12
    sheet = Image.new("RGB", (_COLUMNS * cell, max(1, rows) * (cell + _TEXT_HEIGHT)), "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(13)
    for number, answer in enumerate(mistakes):
        left, top = number % _COLUMNS * cell + 6, number // _COLUMNS * (cell + _TEXT_HEIGHT) + 6
        try:
            with Image.open(answer.source) as picture:
                picture.draft("RGB", (_THUMBNAIL, _THUMBNAIL))
                thumbnail = picture.convert("RGB")
                thumbnail.thumbnail((_THUMBNAIL, _THUMBNAIL))
                sheet.paste(thumbnail, (left, top))
        except (OSError, ValueError, Image.DecompressionBombError):  # it has changed since
            draw.rectangle((left, top, left + _THUMBNAIL, top + _THUMBNAIL), outline="grey")
        predicted = f"{labels[answer.ranked[0]][:16]} {answer.probability:.0%}"
        draw.text((left, top + _THUMBNAIL + 4), f"is {labels[answer.truth][:20]}", "black", font)
        draw.text((left, top + _THUMBNAIL + 22), f"said {predicted}", "darkred", font)
    file = BytesIO()
    sheet.save(file, "PNG", optimize=True)
    return file.getvalue()
