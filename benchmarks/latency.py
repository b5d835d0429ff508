"""How long one pair takes: p50, p95 and p99 of a caption and of embeddings; cold start and first result apart.

    python benchmarks/latency.py [--size published|CKPT] [--contestants …] [--backends …] [--precisions …]

Every contestant takes its turn in a fresh process, round by round. benchmarks/README.md says what each is, what the
floors mean, and how to compare fairly.
"""

from __future__ import annotations

from common import options, table


def main() -> None:
    """Measure and print."""
    parser = options.parser((__doc__ or "").splitlines()[0], batches=(1,), beams=(1, 5), rounds=3, seconds=5.0)
    arguments = parser.parse_args()
    if arguments.batches != [1] or (options.FILES in arguments.tasks and arguments.tasks != list(options.TASKS)):
        parser.error("latency is of one pair in memory: benchmarks/throughput.py has batches and files")
    arguments.tasks = [task for task in arguments.tasks if task != options.FILES]
    options.main("latency", arguments, table.latency)


if __name__ == "__main__":
    main()
