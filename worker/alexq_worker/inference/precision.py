"""``ALEXQ_PRECISION=auto``: the fastest arithmetic that the device has and that agrees with fp32."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import torch

from alexq_schema.errors import DeviceError
from alexq_worker.inference import int8

if TYPE_CHECKING:
    from alexq_schema.model_info import ModelInfo
    from alexq_schema.names import Precision

MIN_AGREEMENT = 0.995
"""Share of held-out images whose first class must be fp32's."""

_BF16 = ("avx512_bf16", "amx_bf16", "bf16")
"""CPU features that multiply bfloat16, x86's and ARM's; without one it takes five times as long as fp32."""

log = logging.getLogger("alexq.inference")


def choose(info: ModelInfo, devices: tuple[torch.device, ...]) -> Precision:
    """Return the first of :func:`native` whose recorded agreement suffices, else ``fp32``; log why."""
    reasons = []
    for precision in native(devices):
        agreement = (info.agreement or {}).get(precision)
        if agreement is not None and agreement.top1 >= MIN_AGREEMENT:
            log.info(
                "precision auto: %s for model %s, whose agreement with fp32 is %.4f on %d images",
                *(precision, info.ref, agreement.top1, agreement.images),
            )
            return precision
        found = "not measured" if agreement is None else f"{agreement.top1:.4f}"
        reasons.append(f"{precision} (agreement with fp32 {found}, {MIN_AGREEMENT} is needed)")
    log.info(
        "precision auto: fp32 for model %s; not %s", info.ref, ", ".join(reasons) or "faster natively here"
    )
    return "fp32"


def native(devices: tuple[torch.device, ...]) -> list[Precision]:
    """Return what is faster than fp32 on these devices, the fastest first."""
    first = devices[0]
    if first.type == "cuda":
        has_bf16 = all(torch.cuda.get_device_capability(device) >= (8, 0) for device in devices)
        return ["bf16"] if has_bf16 else []
    if first.type != "cpu":
        return []
    features = torch.cpu.get_capabilities()
    found: list[Precision] = []
    if len(devices) == 1 and features.get("avx2") and _has_int8(first):
        found.append("int8")
    if any(features.get(feature) for feature in _BF16):
        found.append("bf16")
    return found


def _has_int8(device: torch.device) -> bool:
    try:
        int8.require_engine(device)
    except DeviceError:
        return False
    return True
