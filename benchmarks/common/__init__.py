"""What the benchmarks share: material, processes, limits of the machine, floors, quality, tables and plots."""
