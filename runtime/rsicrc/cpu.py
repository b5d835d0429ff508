"""What this machine gives a process: processors, and the instructions they know."""

from __future__ import annotations

import math
import os
from pathlib import Path

# Flags of /proc/cpuinfo that stand for products of bfloat16; without them they are imitated, slower than float32.
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def available_cpus() -> int:
    """Return how many CPUs this process may use: its affinity, bounded by the container's quota."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cpus = os.cpu_count() or 1
    # ONNX Runtime sees the machine's cores and starts a spinning thread for each; under a quota they starve each other.
    quota = cgroup_quota(Path("/sys/fs/cgroup"))
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def cgroup_quota(root: Path) -> float | None:
    """Return how many CPUs' time a container may use, by cgroup version 2 or 1; None where nothing limits it."""
    try:
        limit, period = (root / "cpu.max").read_text(encoding="ascii").split()
    except (OSError, ValueError):
        try:
            limit = (root / "cpu" / "cpu.cfs_quota_us").read_text(encoding="ascii")
            period = (root / "cpu" / "cpu.cfs_period_us").read_text(encoding="ascii")
        except OSError:
            return None
    try:
        quota = int(limit) / int(period)
    except (ValueError, ZeroDivisionError):  # version 2 says "max" for no limit
        return None
    return quota if quota > 0 else None  # version 1 says -1 for no limit


def cpu_fields(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Return what Linux says about the first processor; empty on other systems."""
    try:
        text = cpuinfo.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return {}
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    return fields


def cpu_flags(cpuinfo: Path = Path("/proc/cpuinfo")) -> set[str]:
    """Return the instruction sets of the processor, as /proc/cpuinfo names them."""
    fields = cpu_fields(cpuinfo)
    return set(fields.get("flags", fields.get("Features", "")).split())


def has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether the processor multiplies bfloat16 by itself."""
    return bool(_BF16_FLAGS & cpu_flags(cpuinfo))
