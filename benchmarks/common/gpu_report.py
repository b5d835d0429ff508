"""Report of `gpu.py` on a device: tests, skipped parts and benchmarks, as a JSON file and a Markdown file."""

from __future__ import annotations

import json
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from pathlib import Path
from typing import Any

from common import table, targets
from common.processes import BENCHMARKS, say
from common.runner import Results
from rsicrc.files import replacing
from rsicrc.manifest import MANIFEST_FILE, sha256_file

_LONGEST_MESSAGE = 300
_OUTCOMES = ("passed", "failed", "skipped")
_STEPS = ("latency", "throughput")


class GpuReport:
    """Contents of the report, which grow step by step.

    Attributes:
        path: JSON file.
        found: Contents: device, model, date, skipped, failed, tests, latency, throughput.
    """

    def __init__(self, path: Path, found: dict[str, Any]) -> None:
        self.path = path
        self.found = found

    @classmethod
    def open(cls, path: Path, device: str, folder: Path) -> GpuReport:
        """Begin a report; earlier tests and benchmarks with the same device and model are kept."""
        about = {"device": device, "model": {"name": folder.name, "sha256": sha256_file(folder / MANIFEST_FILE)}}
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if {name: found.get(name) for name in about} != about:
            found = {**about, "tests": None, "latency": None, "throughput": None}
        date = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        return cls(path, {**found, "date": date, "skipped": [], "failed": []})

    @property
    def failed(self) -> bool:
        """True if a test or a benchmark failed."""
        return bool(self.found["failed"])

    def skip(self, line: str) -> None:
        """Add and print a reason why a part was skipped."""
        if line not in self.found["skipped"]:
            self.found["skipped"].append(line)
            say(f"skipped: {line}")

    def fail(self, line: str) -> None:
        """Add and print a failure."""
        self.found["failed"].append(line)
        say(f"failed: {line}")

    def add_tests(self, junit: Path, status: int) -> None:
        """Add the tests of a JUnit XML file, and the exit status of pytest."""
        if not junit.is_file():
            self.fail(f"pytest ended with {status} and wrote no results, see above")
            return
        cases = ElementTree.parse(junit).iter("testcase")  # noqa: S314 - our own file
        self.found["tests"] = [_outcome(case) for case in cases]
        for test in self.found["tests"]:
            if test["outcome"] == "failed":
                self.fail(f"{test['name']}: {test['message']}")
        if status and not self.failed:
            self.fail(f"pytest ended with {status}, see above")

    def add_results(self, step: str, path: Path) -> None:
        """Add the results of a benchmark."""
        self.found[step] = json.loads(path.read_text(encoding="utf-8"))

    def write(self) -> None:
        """Write both files, replacing each in one step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for path, text in ((self.path, json.dumps(self.found, indent=1)), (self.path.with_suffix(".md"), self.text())):
            with replacing(path) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")

    def text(self) -> str:
        """Return the report as Markdown."""
        found = self.found
        latency, throughput = (None if found[step] is None else Results(**found[step]) for step in _STEPS)
        parts = [f"# {found['device']}", f"{found['model']['name']}, {found['date']}"]
        for title in ("failed", "skipped"):
            if found[title]:
                parts.append("\n".join([f"{title.capitalize()}:\n", *(f"- {line}" for line in found[title])]))
        if found["tests"] is not None:
            parts.append(f"## Tests\n\n{_tests(found['tests'])}")
        if latency is not None or throughput is not None:
            parts.append(f"## Targets\n\n{targets.tables(latency, throughput)}")
        if latency is not None:
            parts.append(f"# Latency\n\n{table.latency(latency)}")
        if throughput is not None:
            parts.append(f"# Throughput\n\n{table.throughput(throughput)}")
        return "\n\n".join(parts)


def _outcome(case: ElementTree.Element) -> dict[str, Any]:
    module = case.get("classname", "").rpartition(".")[2]
    outcome, message = "passed", ""
    for kind, name in (("skipped", "skipped"), ("failure", "failed"), ("error", "failed")):
        if (part := case.find(kind)) is not None:
            outcome, message = name, (part.get("message") or "").splitlines()[0][:_LONGEST_MESSAGE]
    message = message.replace(str(BENCHMARKS.parent), "")  # results are published
    name, seconds = f"{module}::{case.get('name')}", float(case.get("time", "0"))
    return {"name": name, "outcome": outcome, "seconds": seconds, "message": message}


def _tests(tests: list[dict[str, Any]]) -> str:
    """Return a table of the tests by name without parameters, and the reasons of skipped tests."""
    counts: dict[str, Counter[str]] = {}
    for test in tests:
        counts.setdefault(test["name"].partition("[")[0], Counter())[test["outcome"]] += 1
    body = [(name, *(str(count[outcome]) for outcome in _OUTCOMES)) for name, count in counts.items()]
    reasons = Counter(test["message"] for test in tests if test["outcome"] == "skipped")
    skipped = "\n".join(f"- {count} skipped: {reason}" for reason, count in reasons.items())
    return "\n\n".join(filter(None, [table.markdown(("test", *_OUTCOMES), body), skipped]))
