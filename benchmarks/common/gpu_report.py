"""What `gpu.py` found on a device: tests, what was skipped, benchmarks; as one JSON file and one table beside it."""

from __future__ import annotations

import json
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from common import claims, table
from common.rounds import Results
from rsicrc.manifest import MANIFEST_FILE, sha256_file

_LONGEST = 300


class Proof:
    """The file, as it grows.

    Attributes:
        path: of the JSON file.
        found: what is in it: device, model, skipped, failed, tests, latency, throughput.
    """

    def __init__(self, path: Path, found: dict[str, Any]) -> None:
        self.path = path
        self.found = found

    @classmethod
    def open(cls, path: Path, device: str, folder: Path) -> Proof:
        """Begin; results of earlier steps on the same device and model stay, what was skipped or failed does not."""
        about = {"device": device, "model": {"name": folder.name, "sha256": sha256_file(folder / MANIFEST_FILE)}}
        found: dict[str, Any] = {}
        if path.is_file():
            found = json.loads(path.read_text(encoding="utf-8"))
        if {name: found.get(name) for name in about} != about:
            found = {**about, "tests": None, "latency": None, "throughput": None}
        date = time.strftime("%Y-%m-%d %H:%M", time.gmtime())
        return cls(path, {**found, "date": date, "skipped": [], "failed": []})

    @property
    def failed(self) -> bool:
        """Whether anything did."""
        return bool(self.found["failed"])

    def skip(self, line: str) -> None:
        """Note what is missing, and say it."""
        if line not in self.found["skipped"]:
            self.found["skipped"].append(line)
            _say(f"skipped: {line}")

    def fail(self, line: str) -> None:
        """Note what went wrong, and say it."""
        self.found["failed"].append(line)
        _say(f"failed: {line}")

    def add_tests(self, report: Path, status: int) -> None:
        """Take in a JUnit report and pytest's exit status."""
        if not report.is_file():
            self.fail(f"pytest ended with {status} and no report, see above")
            return
        self.found["tests"] = [_outcome(case) for case in ElementTree.parse(report).iter("testcase")]  # noqa: S314 - ours
        root = str(Path(__file__).resolve().parents[2])
        for test in self.found["tests"]:
            test["message"] = test["message"].replace(root, "")  # results are published
            if test["outcome"] == "failed":
                self.fail(f"{test['name']}: {test['message']}")
        if status and not self.failed:
            self.fail(f"pytest ended with {status}, see above")

    def add_results(self, step: str, path: Path) -> None:
        """Take in the results of a benchmark."""
        self.found[step] = json.loads(path.read_text(encoding="utf-8"))

    def write(self) -> None:
        """Replace both files."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        for path, text in ((self.path, json.dumps(self.found, indent=1)), (self.path.with_suffix(".md"), self.text())):
            partial = path.with_name(f".{path.name}.partial")
            partial.write_text(text + "\n", encoding="utf-8")
            partial.replace(path)

    def text(self) -> str:
        """Everything as Markdown."""
        found = self.found
        latency, throughput = (
            None if found[step] is None else Results(**found[step]) for step in ("latency", "throughput")
        )
        parts = [f"# {found['device']}", f"{found['model']['name']}, {found['date']}"]
        if found["failed"]:
            parts.append("Failed:\n\n" + "\n".join(f"- {line}" for line in found["failed"]))
        if found["skipped"]:
            parts.append("Skipped:\n\n" + "\n".join(f"- {line}" for line in found["skipped"]))
        if found["tests"] is not None:
            parts.append(f"## Tests\n\n{_tests(found['tests'])}")
        if latency is not None or throughput is not None:
            parts.append(f"## What must be reached\n\n{claims.tables(latency, throughput)}")
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
            outcome, message = name, (part.get("message") or "").splitlines()[0][:_LONGEST]
    seconds = float(case.get("time", "0"))
    return {"name": f"{module}::{case.get('name')}", "outcome": outcome, "seconds": seconds, "message": message}


def _tests(tests: list[Mapping[str, Any]]) -> str:
    """Tests by name without their parameters, then why some were skipped."""
    counts: dict[str, Counter[str]] = {}
    for test in tests:
        counts.setdefault(test["name"].partition("[")[0], Counter())[test["outcome"]] += 1
    outcomes = ("passed", "failed", "skipped")
    rows = [(name, *(str(count[outcome]) for outcome in outcomes)) for name, count in counts.items()]
    reasons = Counter(test["message"] for test in tests if test["outcome"] == "skipped")
    skipped = [f"- {count} skipped: {reason}" for reason, count in reasons.items()]
    return "\n\n".join(filter(None, [table.markdown(("test", *outcomes), rows), "\n".join(skipped)]))


def _say(line: str) -> None:
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()
