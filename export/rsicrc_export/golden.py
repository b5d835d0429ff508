"""`golden.npz`: a few inputs, and the outputs of the checked graphs of a model folder for them.

Every other backend, precision and language binding is tested against this file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from rsicrc.backends import Backend
from rsicrc.decoding.beam_search import beam_search
from rsicrc.decoding.options import CaptionOptions
from rsicrc.manifest import SCORER, TEXT_ENCODER, Manifest
from rsicrc.text.vocabulary import PAD, START
from rsicrc_export.parity import encode, example_images, example_sentences

PAIRS = 2
SENTENCES = 4
BEAMS = (1, 3, 5)


def write_golden(path: Path, manifest: Manifest, backend: Backend) -> None:
    """Write the golden file; docs/graphs.md describes the arrays.

    Args:
        path: The file to write.
        manifest: The manifest of the folder.
        backend: The backend that runs the graphs of the folder.
    """
    images = example_images(PAIRS, manifest.preprocessing.size)
    outputs, cross = encode(backend, images)
    ids = example_sentences(SENTENCES, manifest.max_len, manifest.vocab_size)
    text = backend.run(TEXT_ENCODER, {"input_ids": ids})
    scored = backend.run(SCORER, {"input_ids": ids, **cross})
    arrays: dict[str, Any] = {
        "images": images,
        "image_embedding": backend.numpy(outputs["image_embedding"]),
        "similarity": backend.numpy(outputs["similarity"]),
        "input_ids": ids,
        "text_embedding": backend.numpy(text["text_embedding"]),
        "log_probs": backend.numpy(scored["log_probs"]),
        "attention": backend.numpy(scored["attention"]),
    }
    for beams in BEAMS:
        if 2 * beams > manifest.vocab_size:
            continue
        options = CaptionOptions(beams=beams, n_best=beams).resolve(manifest)
        found = beam_search(backend, cross, PAIRS, options).sentences
        captions = np.full((PAIRS, beams, manifest.max_len), PAD, np.int64)
        captions[:, :, 0] = START
        for pair, hypotheses in enumerate(found):
            for rank, hypothesis in enumerate(hypotheses):
                captions[pair, rank, 1 : len(hypothesis.ids) + 1] = hypothesis.ids
        arrays[f"caption_ids_{beams}"] = captions
        arrays[f"caption_scores_{beams}"] = np.array([[h.score for h in hypotheses] for hypotheses in found])
        arrays[f"caption_log_probs_{beams}"] = np.array(
            [[sum(h.token_log_probs) for h in hypotheses] for hypotheses in found]
        )
    np.savez_compressed(path, **arrays)
