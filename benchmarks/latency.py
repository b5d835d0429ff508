"""Latency of one pair: p50, p95 and p99 of a caption and of embeddings; cold start and first caption separately.

    python benchmarks/latency.py [--size published|CKPT] [--baselines …] [--backends …] [--precisions …]

Every implementation takes its turn in a fresh process; benchmarks/README.md has the rules of the comparison.
"""

from __future__ import annotations

from common import options, table
from common.worker import FILES


def main() -> None:
    """Measure, and print the tables."""
    parser = options.parser((__doc__ or "").splitlines()[0], batches=(1,), beams=(1, 5), rounds=3, seconds=5.0)
    arguments = parser.parse_args()
    if arguments.batches != [1] or (FILES in arguments.tasks and arguments.tasks != list(options.TASKS)):
        parser.error("latency.py measures one pair in memory; benchmarks/throughput.py measures batches and files")
    arguments.tasks = [task for task in arguments.tasks if task != FILES]
    options.main("latency", arguments, table.latency)


if __name__ == "__main__":
    main()
