"""The most important figures, on few lines; the JSON has the rest."""

from __future__ import annotations

import json
from typing import Any

_COUNTS = ("launches", "kernels", "gpu_busy_ms", "copies_to_device", "copies_to_host", "waits")


def summary(data: dict[str, Any]) -> str:
    """Of all blocks."""
    lines = ["", f"device {data['about']['device']}, {data['about']['seconds']} s in all"]
    found = {block: entry["results"] for block, entry in data["blocks"].items()}
    machine = found.get("a", {})
    card = machine.get("card", {}).get("name", "?")
    lines.append(f"card {card}; copy {machine.get('copy_gb_s')} GB/s; product {machine.get('product_tflops')} TFLOP/s; "
                 f"us: {machine.get('host_us')}")  # fmt: skip
    for key, value in found.get("c", {}).items():
        text = json.dumps(value)
        lines.append(f"  {key}: {text}" if len(text) < 220 else f"  {key}: (in the JSON)")
    for block in "ef":
        for key, value in found.get(block, {}).items():
            if isinstance(value, dict) and "ms" in value:
                rest = {k: v for k, v in value.items() if k in ("min", "max", "p99", "host_ms", "floor_ms")}
                lines.append(f"  {block} {key}: {value['ms']} ms {json.dumps(rest)}")
            elif isinstance(value, dict) and "launches" in value:
                lines.append(f"  {block} {key}: {json.dumps({k: value[k] for k in _COUNTS if k in value})}")
    for block in "kgd":
        own = {key: value for key, value in found.get(block, {}).items() if key != "warnings"}
        lines += [f"  {block} {key}: {json.dumps(value)[:200]}" for key, value in own.items()]
    lines += [f"  {block} warns: {text}" for block in found for text in found[block].get("warnings", ())]
    lines.append("targets:")
    lines += [
        f"  {name}: {one['figure'] if one['figure'] is not None else '-'}, {one['target']}: {one['verdict']}"
        for name, one in data["targets"].items()
    ]
    failures = sum(len(entry["errors"]) for entry in data["blocks"].values())
    states = ", ".join(f"{block} {entry['status']}" for block, entry in data["blocks"].items())
    lines.append(f"{failures} failures; blocks: {states}")
    return "\n".join(lines)
