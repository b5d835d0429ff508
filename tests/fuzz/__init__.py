"""Fuzzing of everything that reads files of strangers, with a mutator of the project: `python -m tests.fuzz`."""
