"""The parity check: every exported graph, run in ONNX Runtime, compared with the unfolded PyTorch modules.

The reference is the original model, so an error in a fold, in the conversion or in a weight is detected. The inputs are
random, from a fixed seed. Each difference has a fixed tolerance. Where weights amplify rounding beyond it, the rule of
`rsicrc_export.rounding` applies: graph and model are both compared with the model in float64.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rsicrc.backends import Backend
from rsicrc.decoding.beam_search import FinishedBeam, beam_search
from rsicrc.decoding.options import CaptionOptions
from rsicrc.errors import BackendError, ExportError
from rsicrc.manifest import DECODER, IMAGE_ENCODER, SCORER, TEXT_ENCODER, Manifest
from rsicrc.text.vocabulary import END, PAD, START
from rsicrc_export.comparisons import (
    Evaluation,
    GraphCheck,
    Quantity,
    absolute,
    distances,
    largest_per_position,
    log_prob_differences,
    regrets,
    relative_distances,
)
from rsicrc_export.rounding import References
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
class _Example:
    """Outputs of the image encoder graph and of the model for the same pairs.

    The scorer and decoder graphs get the cross keys and values of the model instead of those of the image encoder
    graph, so that their differences do not include the rounding of the image network: a decoder with large weights can
    amplify that rounding by a factor of several hundred.

    Attributes:
        images: The pairs, uint8 [B, 2, size, size, 3].
        found: Outputs of the image encoder graph, by name.
        expected: Outputs of the model.
        expected_cross: Cross keys and values of the model, by name; see `cross_memory`.
    """

    images: NDArray[np.uint8]
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
        ExportError: Some differences exceed their tolerance and are larger than rounding explains; all of them are
            named.
    """
    results: dict[str, list[dict[str, Any]]] = {}
    broken = []
    references = References(model)
    with torch.no_grad():
        examples = [_example(model, backend, pairs) for pairs in PAIRS]
        prepare_checks: dict[str, Callable[[], GraphCheck]] = {
            IMAGE_ENCODER: lambda: _image_encoder(model, examples),
            TEXT_ENCODER: lambda: _text_encoder(model, backend),
            SCORER: lambda: _scorer(model, examples, backend),
            DECODER: lambda: _decoder(examples, manifest, backend),
        }
        for graph, prepare_check in prepare_checks.items():
            try:
                check = prepare_check()
            except BackendError as error:  # the beam search stops at NaN
                broken.append(f"{graph}: {error}")
                continue
            comparisons = check.run(model, references)
            results[graph] = [comparison.to_dict() for comparison in comparisons]
            for comparison in comparisons:
                logger.info("%s: %s", graph, comparison)
                if not comparison.passed:
                    broken.append(f"{graph}: {comparison}")
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
    return _Example(images, found, expected, cross_memory(model, expected.tokens))


def _image_encoder(model: RSICRC, examples: list[_Example]) -> GraphCheck:
    names = list(examples[0].expected_cross)

    def evaluate(other: RSICRC) -> Evaluation:
        embeddings, maps, memory = [], [], []
        for example in examples:
            features, cross = example.expected, example.expected_cross
            if other is not model:
                features = other.encode_images(torch.from_numpy(example.images))
                cross = cross_memory(other, features.tokens)
            embeddings.append(_unit(features.embedding))
            # Rows and columns are swapped in the maps of the model, not in those of the graph.
            maps.append(features.similarity.transpose(1, 2).numpy())
            memory += [cross[name] for name in names]
        return [embeddings, maps, memory]

    inputs = f"{_or(PAIRS)} pairs"
    found = [example.found for example in examples]
    embeddings, maps = ([each[name] for each in found] for name in ("image_embedding", "similarity"))
    memory = [each[name] for each in found for name in names]
    quantities = [
        Quantity("image_embedding, relative", inputs, EMBEDDING_TOLERANCE, embeddings, distances),
        Quantity("similarity, absolute", inputs, SIMILARITY_TOLERANCE, maps, absolute),
        Quantity("cross keys and values, relative", inputs, MEMORY_TOLERANCE, memory, relative_distances),
    ]
    return GraphCheck(IMAGE_ENCODER, quantities, evaluate)


def _text_encoder(model: RSICRC, backend: Backend) -> GraphCheck:
    size, longest = model.decoder.embedding.num_embeddings, model.config.max_len
    lengths = sorted({3, longest // 2 + 1, longest})
    sentences = [example_sentences(count, length, size, _SEED + count) for count in PAIRS for length in lengths]

    def evaluate(other: RSICRC) -> Evaluation:
        return [[_unit(other.encode_text(torch.from_numpy(ids)).embedding) for ids in sentences]]

    found = [backend.numpy(backend.run(TEXT_ENCODER, {"input_ids": ids})["text_embedding"]) for ids in sentences]
    inputs = f"{_or(PAIRS)} sentences of up to {_or(lengths)} ids"
    quantity = Quantity("text_embedding, relative", inputs, EMBEDDING_TOLERANCE, found, distances)
    return GraphCheck(TEXT_ENCODER, [quantity], evaluate)


def _scorer(model: RSICRC, examples: list[_Example], backend: Backend) -> GraphCheck:
    size, longest = model.decoder.embedding.num_embeddings, model.config.max_len
    runs: list[tuple[Tensor, NDArray[np.int64]]] = []  # the visual tokens of one pair, and the sentences scored on them
    found: tuple[list[NDArray[Any]], list[NDArray[Any]]] = ([], [])
    for example in examples:
        pairs = len(example.images)
        ids = example_sentences(2 * pairs, longest if pairs > 1 else 4, size, _SEED + pairs)
        outputs = backend.run(SCORER, {"input_ids": ids, **example.expected_cross})
        for values, name in zip(found, ("log_probs", "attention"), strict=True):
            values.extend(backend.numpy(outputs[name]))
        runs += [(tokens, ids) for tokens in example.expected.tokens]

    def evaluate(other: RSICRC) -> Evaluation:
        dtype = other.decoder.output.weight.dtype
        results = [teacher_forced(other, tokens.to(dtype).expand(len(ids), -1, -1), ids) for tokens, ids in runs]
        return [[log_probs for log_probs, _ in results], [attention for _, attention in results]]

    inputs = f"2, 4 and 10 sentences on each of {_or(PAIRS)} pairs"
    quantities = [
        Quantity("log_probs, per word", inputs, LOG_PROB_TOLERANCE, found[0], log_prob_differences),
        Quantity("attention, absolute", inputs, ATTENTION_TOLERANCE, found[1], absolute),
    ]
    return GraphCheck(SCORER, quantities, evaluate)


def _decoder(examples: list[_Example], manifest: Manifest, backend: Backend) -> GraphCheck:
    """Compare the token log-probabilities of beam searches with the model, and greedy tokens with its best token."""
    beams_used = [beams for beams in BEAMS if 2 * beams <= manifest.vocab_size]
    searches: list[_Search] = []
    for example in examples:
        pairs = len(example.images)
        longest = manifest.max_len if pairs == 1 else min(manifest.max_len, _BATCH_MAX_LENGTH)
        for beams in beams_used:
            options = CaptionOptions(beams=beams, n_best=beams, max_length=longest).resolve(manifest)
            found = beam_search(backend, example.expected_cross, pairs, options)
            searches += map(_Search, example.expected.tokens, found.sentences)
    greedy = [search for search in searches if len(search.beams) == 1]

    def evaluate(other: RSICRC) -> Evaluation:
        tokens, choices = [], []
        for search in searches:
            log_probs = search.log_probs(other)
            for row, ids in zip(log_probs, search.ids, strict=True):
                tokens.append(np.take_along_axis(row, ids[:, None], axis=1)[: len(ids), 0])
            if len(search.beams) == 1:
                choices.append(log_probs[0])
        return [tokens, choices]

    tokens = [np.array(beam.token_log_probs) for search in searches for beam in search.beams]
    inputs = f"every sentence found for {_or(PAIRS)} pairs with {_or(beams_used)} beams"
    greedy_inputs = f"greedy captions of {_or(PAIRS)} pairs"
    quantities = [
        Quantity("token_log_probs, per word", inputs, LOG_PROB_TOLERANCE, tokens, log_prob_differences),
        Quantity(
            "best word's log-probability above the chosen one's",
            greedy_inputs,
            LOG_PROB_TOLERANCE,
            [search.ids[0] for search in greedy],
            regrets,
            largest_per_position,
        ),
    ]
    return GraphCheck(DECODER, quantities, evaluate)


@dataclass(frozen=True)
class _Search:
    """The hypotheses that a beam search found for one pair.

    Attributes:
        visual: The visual tokens of the pair [S, d], float32.
        beams: The hypotheses.
        ids: The generated tokens of each hypothesis, int64 [n].
    """

    visual: Tensor
    beams: list[FinishedBeam]
    ids: list[NDArray[np.int64]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ids", [np.array(beam.ids, np.int64) for beam in self.beams])

    def log_probs(self, model: RSICRC) -> list[NDArray[Any]]:
        """Compute the log-probabilities [n, V] of all tokens at each position of each hypothesis."""
        longest = 1 + max(len(ids) for ids in self.ids)
        padded = torch.full((len(self.ids), longest), PAD)
        for row, ids in zip(padded, self.ids, strict=True):
            row[: len(ids) + 1] = torch.tensor([START, *ids])
        hidden = model.encode_text(padded).hidden
        logits = model.decode(hidden, self.visual.to(hidden.dtype).expand(len(self.ids), -1, -1))
        log_probs = logits.log_softmax(dim=-1).numpy()
        return [row[: len(ids)] for row, ids in zip(log_probs, self.ids, strict=True)]


def cross_memory(model: RSICRC, tokens: Tensor) -> dict[str, NDArray[Any]]:
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


def teacher_forced(model: RSICRC, tokens: Tensor, ids: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
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


def _unit(embedding: Tensor) -> NDArray[Any]:
    """Return embeddings of the model, normalized to length 1."""
    return torch.nn.functional.normalize(embedding, dim=-1).numpy()


def _or(numbers: Any) -> str:
    *others, last = [str(number) for number in numbers]
    return f"{', '.join(others)} and {last}" if others else last
