"""Generated scenes: pairs of aerial views with captions, for training and testing without any data set."""

from rsicrc_train.synth.dataset import SPLITS, generate
from rsicrc_train.synth.pairs import Pair, make_pair

__all__ = ["SPLITS", "Pair", "generate", "make_pair"]
