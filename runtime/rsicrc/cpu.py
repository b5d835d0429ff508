"""The CPUs that a process may use, and the instructions that they support."""

from __future__ import annotations

import math
import os
from pathlib import Path

# Flags of /proc/cpuinfo for matrix products of bfloat16; without such instructions bfloat16 is emulated and slower than
# float32.
_BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}


def available_cpus() -> int:
    """Return the number of CPUs that this process may use: its affinity, limited by the quota of the container."""
    try:
        cpus = len(os.sched_getaffinity(0))
    except AttributeError:  # not on Linux
        cpus = os.cpu_count() or 1
    # ONNX Runtime counts the cores of the machine and starts a spinning thread for each; with a quota, these threads
    # starve each other.
    quota = cgroup_quota(Path("/sys/fs/cgroup"))
    return cpus if quota is None else max(1, min(cpus, math.ceil(quota)))


def cgroup_quota(root: Path) -> float | None:
    """Return the CPU quota of a container, in CPUs, from cgroup version 2 or 1; None if there is no limit."""
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
    except (ValueError, ZeroDivisionError):  # version 2 writes "max" for no limit
        return None
    return quota if quota > 0 else None  # version 1 writes -1 for no limit


def cpu_fields(cpuinfo: Path = Path("/proc/cpuinfo")) -> dict[str, str]:
    """Return the fields of the first processor in /proc/cpuinfo; empty on systems other than Linux."""
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
    """Return the instruction sets of the processor, as named in /proc/cpuinfo."""
    fields = cpu_fields(cpuinfo)
    return set(fields.get("flags", fields.get("Features", "")).split())


def has_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Return True if the processor has instructions for products of bfloat16."""
    return bool(_BF16_FLAGS & cpu_flags(cpuinfo))
