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

_STEPS = ("tests", "latency", "throughput")
_LONGEST_MESSAGE = 300


class GpuReport:
    """Contents of the report, which grow step by step; see `open`."""

    def __init__(self, path: Path, found: dict[str, Any]) -> None:
        self.path, self.found = path, found

    @classmethod
    def open(cls, path: Path, device: str, folder: Path) -> GpuReport:
        """Begin a report; earlier tests and benchmarks with the same device and model are kept."""
        about = {"device": device, "model": {"name": folder.name, "sha256": sha256_file(folder / MANIFEST_FILE)}}
        found = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        if {name: found.get(name) for name in about} != about:
            found = {**about, **dict.fromkeys(_STEPS)}
        date = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        return cls(path, {**found, "date": date, "skipped": [], "failed": []})

    def skip(self, line: str) -> None:
        """Add and print the reason why a part was skipped."""
        if line not in self.found["skipped"]:
            self.found["skipped"].append(line)
            say(f"skipped: {line}")

    def fail(self, line: str) -> None:
        """Add and print a failure."""
        self.found["failed"].append(line)
        say(f"failed: {line}")

    def add_tests(self, junit: Path, status: int) -> None:
        """Add the tests of a JUnit XML file, and the exit status of pytest."""
        if junit.is_file():
            cases = ElementTree.parse(junit).iter("testcase")  # noqa: S314 - our own file
            self.found["tests"] = [_outcome(case) for case in cases]
            for test in self.found["tests"]:
                if test["outcome"] == "failed":
                    self.fail(f"{test['name']}: {test['message']}")
        if not any(test["outcome"] == "passed" for test in self.found["tests"] or ()):
            self.fail("no test passed")
        if status and not self.found["failed"]:
            self.fail(f"pytest ended with {status}, see above")

    def add_results(self, step: str, path: Path) -> None:
        """Add the results of a benchmark."""
        self.found[step] = json.loads(path.read_text(encoding="utf-8"))
        if not any(turn["cells"] for turn in self.found[step]["turns"] if turn["contestant"].startswith("rsicrc ")):
            self.fail(f"{step}: no backend of the engine could be measured")

    def write(self) -> None:
        """Write both files, replacing each in one step."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for path, text in ((self.path, json.dumps(self.found, indent=1)), (self.path.with_suffix(".md"), self.text())):
            with replacing(path) as temporary:
                temporary.write_text(text + "\n", encoding="utf-8")

    def text(self) -> str:
        """Return the report as Markdown."""
        found = self.found
        latency, throughput = (Results(**found[step]) if found[step] else None for step in _STEPS[1:])
        parts = [f"# {found['device']}", f"{found['model']['name']}, {found['date']}"]
        for title in ("Failed", "Skipped"):
            if lines := found[title.lower()]:
                parts.append("\n".join([f"{title}:\n", *(f"- {line}" for line in lines)]))
        if found["tests"]:
            parts.append(f"## Tests\n\n{_tests(found['tests'])}")
        if latency or throughput:
            parts.append(f"## Targets\n\n{targets.table(latency, throughput)}")
        parts += [f"# Latency\n\n{table.latency(latency)}"] if latency else []
        parts += [f"# Throughput\n\n{table.throughput(throughput)}"] if throughput else []
        return "\n\n".join(parts)


def _outcome(case: ElementTree.Element) -> dict[str, Any]:
    outcome, message = "passed", ""
    for kind, name in (("skipped", "skipped"), ("failure", "failed"), ("error", "failed")):
        if (part := case.find(kind)) is not None:
            outcome, message = name, (part.get("message") or "").splitlines()[0][:_LONGEST_MESSAGE]
    message = message.replace(str(BENCHMARKS.parent), "")  # results are published
    name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
    return {"name": name, "outcome": outcome, "seconds": float(case.get("time", "0")), "message": message}


def _tests(tests: list[dict[str, Any]]) -> str:
    """Return a table of the tests by name without parameters, and the reasons of skipped tests."""
    outcomes = ("passed", "failed", "skipped")
    counts = Counter((test["name"].partition("[")[0], test["outcome"]) for test in tests)
    names = dict.fromkeys(name for name, _ in counts)
    body = [(name, *(str(counts[name, outcome]) for outcome in outcomes)) for name in names]
    reasons = Counter(test["message"] for test in tests if test["outcome"] == "skipped")
    skipped = "\n".join(f"- {count} skipped: {reason}" for reason, count in reasons.items())
    return "\n\n".join(filter(None, [table.markdown(("test", *outcomes), body), skipped]))
