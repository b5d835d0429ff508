"""Checks of files that may come from strangers: JSON documents, their fields, and the declared graphs of a folder."""
