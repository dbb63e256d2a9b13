"""What a figure was measured on."""

from __future__ import annotations

import datetime
import os
import platform
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path

import torch

from manyhats._version import __version__
from manyhats.kernels.registry import described as kernels

_SETS = ("avx2", "avx512f", "avx512_bf16", "amx_bf16", "asimd")  # of /proc/cpuinfo's flags, those that kernels use
_CPUINFO = Path("/proc/cpuinfo")


def machine(packages: Sequence[str] = ()) -> dict[str, object]:
    """The processor and its instruction sets, threads, versions (of `packages` too, where installed), and the date."""
    fields = _cpuinfo()
    flags = (fields.get("flags") or fields.get("Features") or "").split()
    versions = {"manyhats": __version__, "torch": torch.__version__}
    for package in ("transformers", *packages):
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return {
        "processor": fields.get("model name") or platform.processor() or platform.machine(),
        "instruction_sets": [name for name in _SETS if name in flags],
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "kernels": kernels(torch.device("cpu")),
        "versions": versions,
        "date": datetime.date.today().isoformat(),
    }


def described(about: dict[str, object]) -> str:
    """A machine in one line."""
    sets, versions = about["instruction_sets"], about["versions"]
    assert isinstance(sets, list)
    assert isinstance(versions, dict)
    return f"{about['processor']} ({', '.join(sets)}), {about['threads']} threads, torch {versions['torch']}"


def _cpuinfo() -> dict[str, str]:
    """The fields of the first processor."""
    if not _CPUINFO.exists():
        return {}
    first = _CPUINFO.read_text(encoding="utf-8").split("\n\n")[0]
    pairs = (line.partition(":") for line in first.splitlines())
    return {name.strip(): value.strip() for name, _, value in pairs}
