"""Scenes: georeferenced rasters of one place at several dates, captioned tile by tile, written as maps."""
