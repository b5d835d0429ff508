"""The parity check: every exported graph, run in ONNX Runtime, compared with the unfolded PyTorch modules.

The reference is the original model, so an error in a fold, in the conversion or in a weight is detected. The inputs are
random, from a fixed seed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsicrc.backends import Backend
from rsicrc.decoding.beam_search import FinishedBeam, beam_search
from rsicrc.decoding.options import CaptionOptions
from rsicrc.errors import ExportError
from rsicrc.manifest import DECODER, IMAGE_ENCODER, SCORER, TEXT_ENCODER, Manifest
from rsicrc.text.vocabulary import END, PAD, START
from rsicrc_train.model import RSICRC, ImageFeatures

logger = logging.getLogger("rsicrc.export")

EMBEDDING_TOLERANCE = 1e-4  # relative
# Larger than for the embedding, which averages the rounding errors of all visual tokens.
SIMILARITY_TOLERANCE = 1e-3  # absolute, of cosines
MEMORY_TOLERANCE = 1e-3  # relative, of the keys or values of a pair in one layer
LOG_PROB_TOLERANCE = 1e-3  # of the log-probability of one token: absolute up to 1, relative above
ATTENTION_TOLERANCE = 1e-4  # absolute, of attention weights
PAIRS = (1, 2, 5)
BEAMS = (1, 5)
_SEED = 20240613
_BATCH_MAX_LENGTH = 12  # limit for the captions of a batch; single pairs use the maximum length of the model


@dataclass(frozen=True)
class Comparison:
    """The difference between graph and model in one quantity.

    Attributes:
        quantity: The compared quantity, and whether the difference is absolute or relative.
        inputs: The inputs of the comparison.
        difference: The largest difference.
        tolerance: The largest allowed difference.
    """

    quantity: str
    inputs: str
    difference: float
    tolerance: float

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for the manifest."""
        return {
            "quantity": self.quantity,
            "inputs": self.inputs,
            "largest_difference": self.difference,
            "tolerance": self.tolerance,
        }


@dataclass(frozen=True)
class _Example:
    """Outputs of the image encoder graph and of the model for the same pairs.

    The scorer and decoder graphs get the cross keys and values of the model instead of those of the image encoder
    graph, so that their differences do not include the rounding of the image network: a decoder with large weights can
    amplify that rounding by a factor of several hundred.

    Attributes:
        found: Outputs of the image encoder graph, by name.
        expected: Outputs of the model.
        expected_cross: Cross keys and values of the model, by name; see `cross_memory`.
    """

    found: dict[str, NDArray[np.float32]]
    expected: ImageFeatures
    expected_cross: dict[str, Any]


def check_parity(model: RSICRC, manifest: Manifest, backend: Backend) -> dict[str, Any]:
    """Compare all graphs of a model folder with the model, and log each comparison.

    Args:
        model: The source of the folder, in evaluation mode.
        manifest: The manifest of the folder; its graphs and sizes are used.
        backend: The backend that runs the graphs of the folder.

    Returns:
        The parity report for the manifest: graph name → comparisons.

    Raises:
        ExportError: Some differences exceed their tolerance; all of them are named.
    """
    results: dict[str, list[dict[str, Any]]] = {}
    broken = []
    with torch.no_grad():
        examples = [_example(model, backend, pairs) for pairs in PAIRS]
        for graph, comparisons in (
            (IMAGE_ENCODER, _image_encoder(examples, backend)),
            (TEXT_ENCODER, _text_encoder(model, backend)),
            (SCORER, _scorer(model, examples, backend)),
            (DECODER, _decoder(model, examples, manifest, backend)),
        ):
            results[graph] = []
            for comparison in comparisons:
                results[graph].append(comparison.to_dict())
                line = (
                    f"{graph}: {comparison.quantity}, largest difference {comparison.difference:.1e} "
                    f"(allowed {comparison.tolerance:.0e}) on {comparison.inputs}"
                )
                logger.info("%s", line)
                # Not `>`, so that NaN exceeds the tolerance too.
                if not comparison.difference <= comparison.tolerance:
                    broken.append(line)
    if broken:
        raise ExportError(f"the graphs do not equal the PyTorch model: {'; '.join(broken)}")
    return {"backend": backend.name, "device": backend.device, "seed": _SEED, "comparisons": results}


def example_images(pairs: int, size: int, seed: int = _SEED) -> NDArray[np.uint8]:
    """Return pairs [pairs, 2, size, size, 3] of coarse colored blocks with noise; every second pair is unchanged."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (pairs, 2, 7, 7, 3))
    coarse[1::2, 1] = coarse[1::2, 0]
    cells = -(-size // 7)
    blocks = coarse.repeat(cells, axis=2).repeat(cells, axis=3)[:, :, :size, :size]
    return np.clip(blocks + random.normal(0.0, 20.0, blocks.shape), 0, 255).astype(np.uint8)


def parity_images(size: int) -> NDArray[np.uint8]:
    """Return all pairs of the parity check, [N, 2, size, size, 3]."""
    return np.concatenate([example_images(pairs, size, _SEED + pairs) for pairs in PAIRS])


def example_sentences(count: int, longest: int, vocabulary_size: int, seed: int = _SEED) -> NDArray[np.int64]:
    """Return random sentences [count, longest], START … END, right-padded, with lengths from `longest` down to 3."""
    random = np.random.default_rng(seed)
    lengths = np.linspace(longest, 3, count).round().astype(int) if count > 1 else np.array([longest])
    ids = np.full((count, longest), PAD, np.int64)
    for row, length in zip(ids, lengths, strict=True):
        row[0], row[length - 1] = START, END
        row[1 : length - 1] = random.integers(min(END + 1, vocabulary_size - 1), vocabulary_size, length - 2)
    return ids


def encode(backend: Backend, images: NDArray[np.uint8]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run the image encoder graph; return all its outputs, and the cross keys and values among them."""
    outputs = backend.run(IMAGE_ENCODER, {"images": images})
    return outputs, {name: value for name, value in outputs.items() if name.startswith("cross_")}


def _example(model: RSICRC, backend: Backend, pairs: int) -> _Example:
    images = example_images(pairs, model.config.image_trunk.image_size, _SEED + pairs)
    outputs, _ = encode(backend, images)
    expected = model.encode_images(torch.from_numpy(images))
    found = {name: backend.numpy(value) for name, value in outputs.items()}
    return _Example(found, expected, cross_memory(model, expected.tokens))


def _image_encoder(examples: list[_Example], backend: Backend) -> Iterator[Comparison]:
    embedding = similarity = memory = 0.0
    for example in examples:
        embedding = _worse(embedding, _relative(example.found["image_embedding"], example.expected.embedding))
        # Rows and columns are swapped in the maps of the model, not in those of the graph.
        transposed = example.expected.similarity.transpose(1, 2).numpy()
        similarity = _worse(similarity, float(np.abs(example.found["similarity"] - transposed).max()))
        for name, expected in example.expected_cross.items():
            distances = np.linalg.norm((example.found[name] - expected).reshape(len(expected), -1), axis=1)
            lengths = np.linalg.norm(expected.reshape(len(expected), -1), axis=1)
            memory = _worse(memory, float((distances / lengths).max()))
    inputs = f"{_or(PAIRS)} pairs"
    yield Comparison("image_embedding, relative", inputs, embedding, EMBEDDING_TOLERANCE)
    yield Comparison("similarity, absolute", inputs, similarity, SIMILARITY_TOLERANCE)
    yield Comparison("cross keys and values, relative", inputs, memory, MEMORY_TOLERANCE)


def _text_encoder(model: RSICRC, backend: Backend) -> Iterator[Comparison]:
    size, longest = model.decoder.embedding.num_embeddings, model.config.max_len
    lengths = sorted({3, longest // 2 + 1, longest})
    difference = 0.0
    for count in PAIRS:
        for length in lengths:
            ids = example_sentences(count, length, size, _SEED + count)
            found = backend.numpy(backend.run(TEXT_ENCODER, {"input_ids": ids})["text_embedding"])
            difference = _worse(difference, _relative(found, model.encode_text(torch.from_numpy(ids)).embedding))
    inputs = f"{_or(PAIRS)} sentences of up to {_or(lengths)} ids"
    yield Comparison("text_embedding, relative", inputs, difference, EMBEDDING_TOLERANCE)


def _scorer(model: RSICRC, examples: list[_Example], backend: Backend) -> Iterator[Comparison]:
    log_probs = attention = 0.0
    size, longest = model.decoder.embedding.num_embeddings, model.config.max_len
    for example in examples:
        pairs = len(example.expected.embedding)
        ids = example_sentences(2 * pairs, longest if pairs > 1 else 4, size, _SEED + pairs)
        outputs = backend.run(SCORER, {"input_ids": ids, **example.expected_cross})
        found = {name: backend.numpy(value) for name, value in outputs.items()}
        for pair, tokens in enumerate(example.expected.tokens):
            expected, expected_attention = teacher_forced(model, tokens.expand(len(ids), -1, -1), ids)
            log_probs = _worse(log_probs, _log_prob_difference(found["log_probs"][pair], expected))
            attention = _worse(attention, float(np.abs(found["attention"][pair] - expected_attention).max()))
    inputs = f"2, 4 and 10 sentences on each of {_or(PAIRS)} pairs"
    yield Comparison("log_probs, per word", inputs, log_probs, LOG_PROB_TOLERANCE)
    yield Comparison("attention, absolute", inputs, attention, ATTENTION_TOLERANCE)


def _decoder(model: RSICRC, examples: list[_Example], manifest: Manifest, backend: Backend) -> Iterator[Comparison]:
    """Compare the token log-probabilities of beam searches with the model, and greedy tokens with its best token."""
    tokens = choices = 0.0
    beams_used = [beams for beams in BEAMS if 2 * beams <= manifest.vocab_size]
    for example in examples:
        pairs = len(example.expected.embedding)
        longest = manifest.max_len if pairs == 1 else min(manifest.max_len, _BATCH_MAX_LENGTH)
        for beams in beams_used:
            options = CaptionOptions(beams=beams, n_best=beams, max_length=longest).resolve(manifest)
            found = beam_search(backend, example.expected_cross, pairs, options)
            for visual, hypotheses in zip(example.expected.tokens, found.sentences, strict=True):
                difference, regret = _compare_beams(model, visual, hypotheses)
                tokens = _worse(tokens, difference)
                choices = _worse(choices, regret) if beams == 1 else choices
    inputs = f"every sentence found for {_or(PAIRS)} pairs with {_or(beams_used)} beams"
    yield Comparison("token_log_probs, per word", inputs, tokens, LOG_PROB_TOLERANCE)
    inputs = f"greedy captions of {_or(PAIRS)} pairs"
    yield Comparison("best word's log-probability above the chosen one's", inputs, choices, LOG_PROB_TOLERANCE)


def _compare_beams(model: RSICRC, visual: Tensor, beams: list[FinishedBeam]) -> tuple[float, float]:
    """Compare the hypotheses of one pair, whose visual tokens are [S, d], with the model.

    Returns:
        The largest difference in the log-probability of a token, and the largest log-probability of the best token
        above that of the chosen one.
    """
    longest = 1 + max(len(beam.ids) for beam in beams)
    ids = torch.full((len(beams), longest), PAD)
    for row, beam in zip(ids, beams, strict=True):
        row[: len(beam.ids) + 1] = torch.tensor([START, *beam.ids])
    logits = model.decode(model.encode_text(ids).hidden, visual.expand(len(beams), -1, -1))
    log_probs = logits.log_softmax(dim=-1)[:, :-1]
    chosen = log_probs.gather(2, ids[:, 1:, None]).squeeze(2)
    regret = torch.where(ids[:, 1:] == PAD, 0.0, log_probs.amax(dim=2) - chosen)
    differences = [
        _log_prob_difference(np.array(beam.token_log_probs), row[: len(beam.ids)].numpy())
        for beam, row in zip(beams, chosen, strict=True)
    ]
    return float(np.max(differences)), float(regret.max())


def cross_memory(model: RSICRC, tokens: Tensor) -> dict[str, NDArray[np.float32]]:
    """Compute the cross keys and values of the image encoder graph from the visual tokens of the model.

    Args:
        model: The model.
        tokens: The visual tokens of B pairs [B, S, d], in the order of the model.

    Returns:
        `cross_keys_{m}` and `cross_values_{m}` [B, H, S, dh] of each multimodal layer, without biases, in image order.
    """
    edge = model.config.image_trunk.map_size
    ordered = tokens.view(len(tokens), edge, edge, -1).transpose(1, 2).flatten(1, 2)
    memory = {}
    for number, layer in enumerate(model.decoder.multimodal):
        attention = layer.get_submodule("cross_attention")
        _, key, value = attention.get_parameter("in_proj_weight").chunk(3)
        for name, weight in ((f"cross_keys_{number}", key), (f"cross_values_{number}", value)):
            heads = (ordered @ weight.T).view(*ordered.shape[:2], model.config.num_heads, -1)
            memory[name] = heads.transpose(1, 2).contiguous().numpy()
    return memory


def teacher_forced(
    model: RSICRC, tokens: Tensor, ids: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Compute the outputs of the scorer graph with the model.

    Args:
        model: The model.
        tokens: The visual tokens of the pair of each sentence [N, S, d], in the order of the model.
        ids: The sentences [N, n].

    Returns:
        The log-probabilities of the tokens [N, n - 1], and the attention of the last layer [N, n, S] in image order.
    """
    last = model.decoder.multimodal[-1].cross_attention
    if not isinstance(last, torch.nn.MultiheadAttention):
        raise TypeError("the last multimodal layer has a cross-attention")
    calls: list[tuple[Tensor, ...]] = []
    hook = last.register_forward_pre_hook(lambda _module, inputs: calls.append(inputs))
    sentences = torch.from_numpy(ids)
    logits = model.decode(model.encode_text(sentences).hidden, tokens)
    hook.remove()
    _, weights = last(*calls[0], need_weights=True)
    edge = model.config.image_trunk.map_size
    attention = weights.unflatten(2, (edge, edge)).transpose(2, 3).flatten(2)
    targets = sentences[:, 1:]
    log_probs = logits[:, :-1].log_softmax(dim=-1).gather(2, targets.unsqueeze(2)).squeeze(2)
    return torch.where(targets == PAD, 0.0, log_probs).numpy(), attention.numpy()


def _relative(found: NDArray[np.float32], embedding: Tensor) -> float:
    """Return the largest distance between rows and the embeddings of the model, normalized to length 1."""
    expected = torch.nn.functional.normalize(embedding, dim=-1).numpy()
    return float(np.linalg.norm(found - expected, axis=-1).max())


def _log_prob_difference(found: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """Return the largest difference of log-probabilities, relative to the expected one where that is below -1."""
    return float((np.abs(found - expected) / np.maximum(1.0, np.abs(expected))).max())


def _worse(largest: float, difference: float) -> float:
    """Return the larger of two differences, or NaN if one of them is NaN (`max` may drop NaN)."""
    return float(np.maximum(largest, difference))


def _or(numbers: Any) -> str:
    *others, last = [str(number) for number in numbers]
    return f"{', '.join(others)} and {last}" if others else last
