"""Throughput: captions and embeddings per second, in memory and from PNG files, by batch size and beams.

    python benchmarks/throughput.py [--size published|CKPT] [--baselines …] [--batches 1 8 32 64] [--beams 1 3 5]

Every implementation takes its turn in a fresh process; benchmarks/README.md has the rules of the comparison.
"""

from __future__ import annotations

from common import options, table


def main() -> None:
    """Measure, and print the tables."""
    parser = options.parser(
        (__doc__ or "").splitlines()[0], batches=(1, 8, 32, 64), beams=(1, 3, 5), rounds=3, seconds=2.0
    )
    options.main("throughput", parser.parse_args(), table.throughput)


if __name__ == "__main__":
    main()
