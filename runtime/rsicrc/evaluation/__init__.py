"""Evaluation of a model folder on a data set."""
