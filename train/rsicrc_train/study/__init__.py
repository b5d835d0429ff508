"""Studies: grids of training runs and their tables."""
