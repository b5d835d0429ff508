"""Captions and scores for encoded pairs: the decoder graph, the scorer graph and the beam search."""
