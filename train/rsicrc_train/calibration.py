"""Calibration of a trained model's change score on the validation split."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch

from rsicrc.datasets.levir_cc import CaptionedPair
from rsicrc.inputs.prefetch import prepare_pair
from rsicrc.text.change_calibration import ChangeCalibration, fit_calibration
from rsicrc.text.encoding import pad
from rsicrc.text.vocabulary import PAD, Vocabulary
from rsicrc_train.model import RSICRC

CHANGE_CALIBRATION = "change_calibration"  # key of the training record in a checkpoint
_BATCH = 32


def calibrate_change(
    model: RSICRC, pairs: Sequence[CaptionedPair], vocabulary: Vocabulary, no_change: Sequence[str]
) -> ChangeCalibration | None:
    """Fit the calibration of the change score to the pairs of a split that the model was not trained on.

    Args:
        model: The trained model; it is set to evaluation mode.
        pairs: The pairs.
        vocabulary: Vocabulary of the model.
        no_change: Sentences that mean "nothing has changed".

    Returns:
        The calibration; None without no-change sentences, or as from `fit_calibration`.

    Raises:
        ImageError: An image cannot be read.
    """
    if not no_change:
        return None
    ids = torch.from_numpy(
        pad([list(row) for row in dict.fromkeys(tuple(vocabulary.encode(text)) for text in no_change)])
    )
    scores: list[float] = []
    for start in range(0, len(pairs), _BATCH):
        batch = [prepare_pair((p.before, p.after), model.config.preprocessing) for p in pairs[start : start + _BATCH]]
        scores += change_scores(model, torch.from_numpy(np.stack(batch)), ids)
    return fit_calibration(scores, [pair.changed for pair in pairs])


@torch.no_grad()
def change_scores(model: RSICRC, images: torch.Tensor, ids: torch.Tensor) -> list[float]:
    """Return 1 − Σ p(s | pair) over the no-change sentences for each pair.

    Args:
        model: The model, which is set to evaluation mode.
        images: Pixels of B pairs, uint8 [B, 2, size, size, 3].
        ids: Token ids of the no-change sentences, int64 [N, n], right-padded.
    """
    model.eval()
    device = model.encoder.mean.device
    ids = ids.to(device)
    tokens = model.encode_images(images.to(device)).tokens
    hidden = model.encode_text(ids).hidden
    logits = model.decode(hidden.repeat(len(tokens), 1, 1), tokens.repeat_interleave(len(ids), dim=0))
    words = torch.log_softmax(logits[:, :-1].double(), dim=-1)
    targets = ids[:, 1:].repeat(len(tokens), 1)
    chosen = words.gather(2, targets.unsqueeze(2))[..., 0].masked_fill(targets == PAD, 0.0)
    unchanged = chosen.sum(dim=1).exp().view(len(tokens), -1).sum(dim=1)
    scores: list[float] = (1.0 - unchanged).clamp(0.0, 1.0).tolist()
    return scores
