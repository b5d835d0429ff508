"""Proof that the exported graphs equal the model: each is run in ONNX Runtime beside the unfolded PyTorch modules.

What is compared is the model as users meet it, so a fold, a conversion and a weight that went wrong all show. The
inputs are made up from a fixed seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
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

EMBEDDING_TOLERANCE = 1e-4  # relative
# Looser than the embedding: single tokens carry the rounding of the whole image network, the embedding averages it.
SIMILARITY_TOLERANCE = 1e-3  # absolute, for cosines
MEMORY_TOLERANCE = 1e-3  # relative, for the keys or values of a pair in one layer
LOG_PROB_TOLERANCE = 1e-3  # for the log-probability of one word: absolute up to 1, relative beyond
ATTENTION_TOLERANCE = 1e-4  # absolute, for attention weights
PAIRS = (1, 2, 5)
BEAMS = (1, 5)
_SEED = 20240613
_SHORTER = 12  # words of a caption in a batch; a single pair's goes to the model's longest


@dataclass(frozen=True)
class Comparison:
    """One quantity of one graph.

    Attributes:
        quantity: what was compared, and how its difference counts.
        inputs: on what.
        difference: the largest.
        tolerance: the largest allowed.
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
    """Some pairs: what the graph gave for them, and what the model gives.

    The decoder's graphs get the model's cross keys and values, not the image encoder's, so that every graph is compared
    on its model's very inputs. A decoder of large weights makes the rounding of the image network hundreds of times
    larger; that would be all one sees of it.
    """

    found: dict[str, NDArray[np.float32]]
    expected: ImageFeatures
    expected_cross: dict[str, Any]


def check_parity(
    model: RSICRC, manifest: Manifest, backend: Backend, report: Callable[[str], None] = lambda line: None
) -> dict[str, Any]:
    """Compare all graphs of a model folder with the model.

    Args:
        model: the model that the folder was made from, in evaluation mode.
        manifest: the folder's manifest; of it, the graphs and the sizes are used.
        backend: runs the folder's graphs.
        report: gets a line for every comparison.

    Returns:
        The report for the manifest: graph name → comparisons.

    Raises:
        ExportError: a difference is over its tolerance; all of them are named.
    """
    proof: dict[str, list[dict[str, Any]]] = {}
    broken = []
    with torch.no_grad():
        examples = [_example(model, backend, pairs) for pairs in PAIRS]
        for graph, comparisons in (
            (IMAGE_ENCODER, _image_encoder(examples, backend)),
            (TEXT_ENCODER, _text_encoder(model, backend)),
            (SCORER, _scorer(model, examples, backend)),
            (DECODER, _decoder(model, examples, manifest, backend)),
        ):
            proof[graph] = []
            for comparison in comparisons:
                proof[graph].append(comparison.to_dict())
                line = (
                    f"{graph}: {comparison.quantity}, largest difference {comparison.difference:.1e} "
                    f"(allowed {comparison.tolerance:.0e}) on {comparison.inputs}"
                )
                report(line)
                # Not `>`: a difference that is not a number breaks the tolerance too.
                if not comparison.difference <= comparison.tolerance:
                    broken.append(line)
    if broken:
        raise ExportError(f"the graphs do not equal the PyTorch model: {'; '.join(broken)}")
    return {"backend": backend.name, "device": backend.device, "seed": _SEED, "comparisons": proof}


def example_images(pairs: int, size: int, seed: int = _SEED) -> NDArray[np.uint8]:
    """Pairs [pairs, 2, size, size, 3]: coarse blocks of color with noise on them, some alike at both dates."""
    random = np.random.default_rng(seed)
    coarse = random.integers(0, 256, (pairs, 2, 7, 7, 3))
    coarse[1::2, 1] = coarse[1::2, 0]
    cells = -(-size // 7)
    blocks = coarse.repeat(cells, axis=2).repeat(cells, axis=3)[:, :, :size, :size]
    return np.clip(blocks + random.normal(0.0, 20.0, blocks.shape), 0, 255).astype(np.uint8)


def parity_images(size: int) -> NDArray[np.uint8]:
    """All pairs that the graphs are compared on, [N, 2, size, size, 3]."""
    return np.concatenate([example_images(pairs, size, _SEED + pairs) for pairs in PAIRS])


def example_sentences(count: int, longest: int, vocabulary_size: int, seed: int = _SEED) -> NDArray[np.int64]:
    """Random sentences [count, ≤ longest], START … END, right-padded, from the shortest length to the longest."""
    random = np.random.default_rng(seed)
    lengths = np.linspace(longest, 3, count).round().astype(int) if count > 1 else np.array([longest])
    ids = np.full((count, longest), PAD, np.int64)
    for row, length in zip(ids, lengths, strict=True):
        row[0], row[length - 1] = START, END
        row[1 : length - 1] = random.integers(min(END + 1, vocabulary_size - 1), vocabulary_size, length - 2)
    return ids


def encode(backend: Backend, images: NDArray[np.uint8]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run the image encoder → all its outputs, and of them the cross keys and values."""
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
        # The model's maps have rows and columns swapped, the graph's have not.
        turned = example.expected.similarity.transpose(1, 2).numpy()
        similarity = _worse(similarity, float(np.abs(example.found["similarity"] - turned).max()))
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
    """Search, then let the model score every sentence found; and is greedy's word the model's best word?"""
    words = choices = 0.0
    beams_used = [beams for beams in BEAMS if 2 * beams <= manifest.vocab_size]
    for example in examples:
        pairs = len(example.expected.embedding)
        longest = manifest.max_len if pairs == 1 else min(manifest.max_len, _SHORTER)
        for beams in beams_used:
            options = CaptionOptions(beams=beams, n_best=beams, max_length=longest).resolve(manifest)
            found = beam_search(backend, example.expected_cross, pairs, options)
            for tokens, hypotheses in zip(example.expected.tokens, found.sentences, strict=True):
                difference, regret = _compare_beams(model, tokens, hypotheses)
                words = _worse(words, difference)
                choices = _worse(choices, regret) if beams == 1 else choices
    inputs = f"every sentence found for {_or(PAIRS)} pairs with {_or(beams_used)} beams"
    yield Comparison("token_log_probs, per word", inputs, words, LOG_PROB_TOLERANCE)
    inputs = f"greedy captions of {_or(PAIRS)} pairs"
    yield Comparison("best word's log-probability above the chosen one's", inputs, choices, LOG_PROB_TOLERANCE)


def _compare_beams(model: RSICRC, tokens: Tensor, beams: list[FinishedBeam]) -> tuple[float, float]:
    """The largest difference in a word's log-probability, and how far the best word was above the one chosen."""
    longest = 1 + max(len(beam.ids) for beam in beams)
    ids = torch.full((len(beams), longest), PAD)
    for row, beam in zip(ids, beams, strict=True):
        row[: len(beam.ids) + 1] = torch.tensor([START, *beam.ids])
    visual = tokens.expand(len(beams), -1, -1)
    log_probs = model.decode(model.encode_text(ids).hidden, visual).log_softmax(dim=-1)[:, :-1]
    chosen = log_probs.gather(2, ids[:, 1:, None]).squeeze(2)
    regret = torch.where(ids[:, 1:] == PAD, 0.0, log_probs.amax(dim=2) - chosen)
    differences = [
        _log_prob_difference(np.array(beam.token_log_probs), row[: len(beam.ids)].numpy())
        for beam, row in zip(beams, chosen, strict=True)
    ]
    return float(np.max(differences)), float(regret.max())


def cross_memory(model: RSICRC, tokens: Tensor) -> dict[str, NDArray[np.float32]]:
    """What the image encoder must hand to the decoder, from the model itself.

    Args:
        model: the model.
        tokens: the visual tokens of B pairs [B, S, d].

    Returns:
        Each multimodal layer's `cross_keys_{m}` and `cross_values_{m}` [B, H, S, dh], without biases, in image order.
    """
    edge = model.config.image_trunk.map_size
    turned = tokens.view(len(tokens), edge, edge, -1).transpose(1, 2).flatten(1, 2)
    memory = {}
    for number, layer in enumerate(model.decoder.multimodal):
        attention = layer.get_submodule("cross_attention")
        _, key, value = attention.get_parameter("in_proj_weight").chunk(3)
        for name, weight in ((f"cross_keys_{number}", key), (f"cross_values_{number}", value)):
            heads = (turned @ weight.T).view(*turned.shape[:2], model.config.num_heads, -1)
            memory[name] = heads.transpose(1, 2).contiguous().numpy()
    return memory


def teacher_forced(
    model: RSICRC, tokens: Tensor, ids: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """What the scorer must answer, from the model itself.

    Args:
        model: the model.
        tokens: the visual tokens of each sentence's pair [N, S, d].
        ids: the sentences [N, n].

    Returns:
        The words' log-probabilities [N, n - 1], and the last layer's attention [N, n, S] in image order.
    """
    last = model.decoder.multimodal[-1].cross_attention
    if not isinstance(last, torch.nn.MultiheadAttention):
        raise TypeError("the last multimodal layer has a cross-attention")
    asked: list[tuple[Tensor, ...]] = []
    hook = last.register_forward_pre_hook(lambda _module, inputs: asked.append(inputs))
    words = torch.from_numpy(ids)
    logits = model.decode(model.encode_text(words).hidden, tokens)
    hook.remove()
    _, weights = last(*asked[0], need_weights=True)
    edge = model.config.image_trunk.map_size
    turned = weights.unflatten(2, (edge, edge)).transpose(2, 3).flatten(2)
    targets = words[:, 1:]
    log_probs = logits[:, :-1].log_softmax(dim=-1).gather(2, targets.unsqueeze(2)).squeeze(2)
    return torch.where(targets == PAD, 0.0, log_probs).numpy(), turned.numpy()


def _relative(found: NDArray[np.float32], embedding: Tensor) -> float:
    """The largest distance of a row from the model's embedding, scaled to length 1."""
    expected = torch.nn.functional.normalize(embedding, dim=-1).numpy()
    return float(np.linalg.norm(found - expected, axis=-1).max())


def _log_prob_difference(found: NDArray[np.floating], expected: NDArray[np.floating]) -> float:
    """The largest difference of words' log-probabilities, in units of the word's own where that is beyond -1."""
    return float((np.abs(found - expected) / np.maximum(1.0, np.abs(expected))).max())


def _worse(largest: float, difference: float) -> float:
    """The larger of two differences; NaN if one of them is (`max` would lose it)."""
    return float(np.maximum(largest, difference))


def _or(numbers: Any) -> str:
    *others, last = [str(number) for number in numbers]
    return f"{', '.join(others)} and {last}" if others else last
