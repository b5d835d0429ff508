"""Synthetic data: generated aerial image pairs with captions, for training and tests without a real data set."""

from rsicrc_train.synth.dataset import SPLITS, generate
from rsicrc_train.synth.large_scene import generate_scene
from rsicrc_train.synth.pairs import Pair, make_pair

__all__ = ["SPLITS", "Pair", "generate", "generate_scene", "make_pair"]
