"""Common part of the benchmarks: assets, worker processes, roofline, quality metrics, tables and plots."""
