"""Savings of every fold at the published size: the unfolded piece of the model compared with the folded piece.

    python studies/folds.py [--pairs 1] [--beams 5] [--repeat 20]

Both are PyTorch modules in fp32 with random weights on one thread, run in turn in one process; a time is the shortest
of the repeats in processor time, so that other programs on the machine count less. PyTorch counts the
multiply-accumulates of a run. The folds are functions of `rsicrc_export.fold`; docs/graphs.md has the table.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from rsicrc_export import fold
from rsicrc_export.decoder_layers import ProjectionGraph, attend, split_heads
from rsicrc_export.image_graph import MergeGraph, PoolGraph, ProductGraph, ResidualGraph
from rsicrc_train.config import ModelConfig
from rsicrc_train.model import AttentionPool, ResidualBlock
from rsicrc_train.trunks import Trunk, normalize

CONFIG = ModelConfig()
D, HEADS, EDGE, WORDS, VOCABULARY = CONFIG.d_model, CONFIG.num_heads, CONFIG.image_trunk.map_size, 10, 468
TOKENS = EDGE * EDGE

Piece = Callable[[], object]


@dataclass(frozen=True)
class Comparison:
    """A piece of the model before and after a fold: functions that run it, and its numbers of parameters."""

    name: str
    unfolded: Piece
    folded: Piece
    parameters: tuple[int, int]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--pairs", type=int, default=1)
    parser.add_argument("--beams", type=int, default=5)
    parser.add_argument("--repeat", type=int, default=20)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    say(f"{arguments.pairs} pair(s), {arguments.beams} beams, 1 thread, torch {torch.__version__}\n")
    say("| fold | parameters, M | GMAC | ms |\n|---|---|---|---|")
    with torch.inference_mode():
        for comparison in comparisons(arguments.pairs, arguments.beams):
            before, after = comparison.parameters
            times = measure(comparison.unfolded, comparison.folded, arguments.repeat)
            cells = (
                comparison.name,
                arrow(before / 1e6, after / 1e6),
                arrow(count_macs(comparison.unfolded) / 1e9, count_macs(comparison.folded) / 1e9),
                arrow(*times, digits=1),
            )
            say(f"| {' | '.join(cells)} |")


def say(line: str) -> None:
    """Print a line without buffering."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def comparisons(pairs: int, beams: int) -> Iterator[Comparison]:
    """Yield the folds as in docs/graphs.md; each builds its own weights, so that few are in memory at once."""
    yield from image_folds(pairs)
    yield from attention_folds(pairs)
    yield from word_folds(pairs, beams)


def image_folds(pairs: int) -> Iterator[Comparison]:
    """Yield folds 1, 2, 4 and 5."""
    trunk = Trunk(CONFIG.image_trunk).eval()
    images = torch.randint(0, 256, (pairs, 2, 224, 224, 3), dtype=torch.uint8)
    mean, std = (torch.tensor(numbers) for numbers in (CONFIG.preprocessing.mean, CONFIG.preprocessing.std))
    inputs = [normalize(images[:, index], mean, std) for index in (0, 1)]
    stacked = torch.cat(inputs)
    same = size(trunk)
    yield Comparison(
        "1 both images in one batch", lambda: [trunk(x) for x in inputs], lambda: trunk(stacked), (same, same)
    )

    folded = fold.fold_batch_norms(trunk.visual)
    statistics = sum(part.num_features * 2 for part in trunk.modules() if isinstance(part, nn.BatchNorm2d))
    yield Comparison(
        "2 BatchNorm into the convolutions", lambda: trunk(stacked), lambda: folded(stacked),
        (same + statistics, size(folded)),
    )  # fmt: skip

    first = trunk.visual.get_submodule("conv1")
    scaled, shift = fold.fold_pixel_scale(cast(nn.Conv2d, first), mean, std)
    if shift is None:
        raise TypeError("the first convolution of this trunk pads")
    flat = images.flatten(0, 1)
    yield Comparison(
        "2 pixels' scale into the first convolution",
        lambda: first(normalize(flat, mean, std)), lambda: scaled(fold.stack_images(images.float()) - shift),
        (size(first) + 6, size(scaled) + 3),
    )  # fmt: skip

    conv, tokens = nn.Conv2d(2 * D, D, 1), torch.randn(pairs, TOKENS, 2, D)
    before, after = (x.transpose(1, 2).reshape(pairs, D, EDGE, EDGE) for x in tokens.unbind(2))
    merge = MergeGraph(conv)

    def cosine_and_merge() -> Tensor:
        cosine = functional.cosine_similarity(before, after, dim=1)
        out: Tensor = conv(torch.cat([before, after], dim=1) + cosine.unsqueeze(1))
        return out

    yield Comparison("4 merge of the two images", cosine_and_merge, lambda: merge(tokens), (size(conv), size(merge)))

    block = ResidualBlock(D).eval()
    graph, merged = ResidualGraph(block, EDGE), torch.randn(pairs, TOKENS, D)
    yield Comparison(
        "2, 5 residual block, kernel transposed",
        # Tokens to maps with rows and columns swapped, and back, as the published model does.
        lambda: block(merged.view(pairs, EDGE, EDGE, D).transpose(-1, 1)).flatten(2).transpose(1, 2).contiguous(),
        lambda: graph(merged),
        (size(block) + 2 * 2 * D, size(graph)),
    )


def attention_folds(pairs: int) -> Iterator[Comparison]:
    """Yield folds 3 and 6."""
    for name, width, rows in (("within an image", D, 2 * pairs), ("across images", 2 * D, pairs)):
        query, key, value = (nn.Linear(width, CONFIG.a_dim, bias=False) for _ in range(3))
        both, x = torch.randn(width, 2 * CONFIG.a_dim), torch.randn(rows, TOKENS, width)
        yield Comparison(
            f"3 keys serve as values, one product ({name})",
            lambda q=query, k=key, v=value, x=x: (q(x), k(x), v(x)),  # type: ignore[misc]
            lambda both=both, x=x: x @ both,  # type: ignore[misc]
            (3 * size(query), both.numel()),
        )
    pool, tokens = AttentionPool(D, HEADS).eval(), torch.randn(pairs, TOKENS, D)
    graph = PoolGraph(pool)
    yield Comparison(
        "6 query of the pool into its keys", lambda: pool(tokens), lambda: graph(tokens), (size(pool), size(graph))
    )


def word_folds(pairs: int, beams: int) -> Iterator[Comparison]:
    """Yield folds 7 to 11, for one step of the decoder."""
    attention = nn.MultiheadAttention(D, HEADS, batch_first=True).eval()
    weights, biases = attention.in_proj_weight.chunk(3), attention.in_proj_bias.chunk(3)
    tokens = torch.randn(pairs, TOKENS, D)
    tokens_in = torch.randn(pairs * beams, D)

    def keys_and_values() -> list[Tensor]:
        return [functional.linear(tokens, weights[part], biases[part]) for part in (1, 2)]

    yield Comparison("7 cross keys and values once per pair, not per step", keys_and_values, lambda: None, (0, 0))

    projection = ProjectionGraph(fold.fold_self_projection(attention))
    separate = [nn.Linear(D, D) for _ in range(3)]
    yield Comparison(
        "8, 10 Q, K and V in one product, no key and value bias",
        lambda: [part(tokens_in) for part in separate], lambda: projection(tokens_in),
        (sum(size(part) for part in separate), size(projection)),
    )  # fmt: skip

    embedding, positions = torch.randn(VOCABULARY, D), torch.randn(CONFIG.max_len, D)
    tables = fold.fold_first_layer(embedding, positions, fold.fold_self_projection(attention))
    ids, place = torch.randint(4, VOCABULARY, (pairs * beams,)), torch.tensor(WORDS)
    yield Comparison(
        "9 first layer's Q, K and V from tables",
        lambda: projection(embedding[ids] + positions[place]),
        lambda: tables.tokens[ids] + tables.positions[place],
        (size(projection), tables.tokens.numel() + tables.positions.numel()),
    )

    keys, values = torch.randn(2, pairs, HEADS, TOKENS, D // HEADS)
    out = ProductGraph(fold.fold_value_bias(attention))
    queries = torch.randn(pairs, beams, D)

    def expanded() -> Tensor:
        query = split_heads(queries.flatten(0, 1).unsqueeze(1), HEADS)
        attended, _ = attend(query, keys.repeat_interleave(beams, 0), values.repeat_interleave(beams, 0))
        product: Tensor = out(attended.flatten(1))
        return product

    def shared() -> Tensor:
        attended, _ = attend(split_heads(queries, HEADS), keys, values)
        product: Tensor = out(attended.transpose(1, 2).flatten(2).flatten(0, 1))
        return product

    yield Comparison("11 all beams share the pair's keys and values", expanded, shared, (size(out), size(out)))


def size(module: nn.Module) -> int:
    """Count a module's parameters and float buffers, without BatchNorm's statistics."""
    buffers = [b for name, b in module.named_buffers() if b.is_floating_point() and "running_" not in name]
    return sum(tensor.numel() for tensor in [*module.parameters(), *buffers])


def count_macs(piece: Piece) -> float:
    """Count the multiply-accumulates of convolutions and matrix products."""
    with FlopCounterMode(display=False) as counter:
        piece()
    return float(counter.get_total_flops()) / 2


def measure(unfolded: Piece, folded: Piece, repeat: int) -> tuple[float, float]:
    """Return the shortest time of each in milliseconds, run in turn so that other programs affect both alike."""
    best = [float("inf")] * 2
    for _ in range(repeat + 1):  # the first warms up
        for number, piece in enumerate((unfolded, folded)):
            started = time.process_time()
            piece()
            best[number] = min(best[number], time.process_time() - started)
    return best[0] * 1e3, best[1] * 1e3


def arrow(before: float, after: float, digits: int = 3) -> str:
    """Return "before → after", or one number if both are equal."""
    first, second = (f"{number:.{digits}f}" for number in (before, after))
    return first if first == second else f"{first} → {second}"


if __name__ == "__main__":
    main()
