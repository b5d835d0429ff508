"""Initial weights of a new model."""

from __future__ import annotations

from torch import nn

from rsicrc_train.model import RSICRC

_WORD_RANGE = 0.1  # of the published word embeddings


def initialize_as_published(model: RSICRC) -> None:
    """Draw the initial weights as the published training does.

    All matrices of the fusion and of the pool's attention, and both tables of positions, are drawn from the uniform
    distribution of Glorot and Bengio (2010), the word embeddings from U(−0.1, 0.1). Other weights are unchanged.
    """
    encoder = model.encoder
    for module in (encoder.column_embedding, encoder.row_embedding, encoder.fusion, encoder.pool.attention):
        for parameter in module.parameters():
            if parameter.dim() > 1:
                nn.init.xavier_uniform_(parameter)
    nn.init.uniform_(model.decoder.embedding.weight, -_WORD_RANGE, _WORD_RANGE)
