"""The GPU benchmarks' results, as tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.table import Table


def show(name: str, result: Any, console: Console) -> None:
    """Print one part's result."""
    if "failed" in result:
        console.print(f"{name}: {result['failed']}", style="red")
    else:
        console.print(_TABLES[name](result))


def _ceilings(result: dict[str, float]) -> Table:
    table = Table("ceiling", "", title="The device alone")
    for name, value in result.items():
        table.add_row(name, f"{value:.1f}")
    return table


def _forward(result: dict[str, Any]) -> Table:
    warm_ups = "; ".join(
        f"{precision} up to {told['batch_limit']}{'' if told['is_graphed'] else ', NO GRAPHS'}"
        for precision, told in result["warm_ups"].items()
    )
    columns = ("batch", "precision", "as", "from device, img/s", "from host, img/s", "top-1", "max |Δp|")
    table = Table(*columns, title="Forward", caption=warm_ups)
    for row in result["rows"]:
        rates = row["images_per_s"] or {}
        table.add_row(
            str(row["batch"]),
            row["precision"],
            row["launched_as"],
            *(_rate(rates.get(way)) for way in ("from_device", "from_host")),
            f"{row['agreement']['top1']:.3f}",
            f"{row['agreement']['difference']:.1e}",
        )
    return table


def _decoding(result: dict[str, Any]) -> Table:
    told = result["device"]
    agreement = told["agreement_in_fp32"]
    reason = f" ({told['last_refusal']})" if told["last_refusal"] else ""
    caption = (
        f"device: {told['fell_back_to_pillow']} of {told['of']} fell back to Pillow{reason}; "
        f"top-1 {agreement['top1']:.3f}, max |Δp| {agreement['difference']:.1e}"
    )
    table = Table("decoder", "img/s", title="Decode, resize, crop", caption=caption, width=100)
    for name, rate in result["images_per_s"].items():
        table.add_row(name, _rate(rate))
    return table


def _pipeline(result: list[dict[str, Any]]) -> Table:
    table = Table("precision", "largest batch", "img/s", "top-1", title="One worker, queue and database")
    for row in result:
        rate = _rate(row["images_per_s"])
        table.add_row(row["precision"], str(row["max_batch"]), rate, f"{row['top1_agreement']:.4f}")
    return table


def _rate(rate: float | None) -> str:
    return "answers differ" if rate is None else f"{rate:,.0f}"


_TABLES: dict[str, Callable[[Any], Table]] = {
    "ceilings": _ceilings,
    "forward": _forward,
    "decoding": _decoding,
    "pipeline": _pipeline,
}
