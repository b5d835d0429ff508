"""How many pairs a second: captions, embeddings, and the whole way from PNG files, over batches and beams.

    python benchmarks/throughput.py [--size published|CKPT] [--contestants …] [--batches 1 8 32 64] [--beams 1 3 5]

Every contestant takes its turn in a fresh process, round by round. benchmarks/README.md says what each is, what the
floors mean, and how to compare fairly.
"""

from __future__ import annotations

from common import options, table


def main() -> None:
    """Measure and print."""
    parser = options.parser(
        (__doc__ or "").splitlines()[0], batches=(1, 8, 32, 64), beams=(1, 3, 5), rounds=3, seconds=2.0
    )
    options.main("throughput", parser.parse_args(), table.throughput)


if __name__ == "__main__":
    main()
