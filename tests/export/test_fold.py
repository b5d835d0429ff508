"""Every fold compared with the unfolded PyTorch module, in float64."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from rsicrc_export import fold
from rsicrc_export.decoder_layers import attend, split_heads
from rsicrc_train.config import TrunkConfig
from rsicrc_train.model import AttentionPool, ResidualBlock, SharedKeyAttention
from rsicrc_train.trunks import Trunk, normalize

WIDTH, HEADS = 12, 3


@pytest.fixture(autouse=True)
def seed() -> None:
    torch.manual_seed(0)


def shaken(module: nn.Module) -> nn.Module:
    """Return the module in float64 and evaluation mode, with random values in all tensors, so that no term is zero."""
    for tensor in module.parameters():
        tensor.data.add_(0.3 * torch.randn_like(tensor))
    for part in module.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.get_buffer("running_mean").normal_()
            part.get_buffer("running_var").uniform_(0.5, 2.0)
    return module.double().eval().requires_grad_(False)


def close(found: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-11)


def attention() -> nn.MultiheadAttention:
    module = shaken(nn.MultiheadAttention(WIDTH, HEADS, batch_first=True))
    assert isinstance(module, nn.MultiheadAttention)
    return module


def joined(attended: Tensor) -> Tensor:
    return attended.transpose(1, 2).flatten(2)


def test_stacked_images_of_a_pair_are_neighbors() -> None:
    images = torch.randint(0, 256, (3, 2, 4, 4, 3), dtype=torch.uint8)
    stacked = fold.stack_images(images)
    assert stacked.shape == (6, 3, 4, 4)
    assert torch.equal(stacked[2 * 1 + 1], images[1, 1].permute(2, 0, 1))


@pytest.mark.parametrize(("stride", "padding", "bias"), [(1, 0, True), (2, 1, False), (1, 1, True)])
def test_batch_norm_folds_into_its_convolution(stride: int, padding: int, bias: bool) -> None:
    conv, norm = nn.Conv2d(3, 5, 3, stride, padding, bias=bias), nn.BatchNorm2d(5)
    block = shaken(nn.Sequential(conv, norm))
    x = torch.randn(2, 3, 7, 8, dtype=torch.float64)
    close(fold.fold_batch_norm(conv, norm)(x), block(x))


@pytest.mark.parametrize(
    "config",
    [
        TrunkConfig("clip_resnet", (2, 1, 1, 1), width=4, image_size=64),
        TrunkConfig("torchvision_resnet", (1, 2, 1, 1), image_size=64),
        TrunkConfig("clip_vit", (1,), width=8, heads=2, patch=32, image_size=64),
        TrunkConfig("timm", name="tf_efficientnet_lite0", image_size=64),
        TrunkConfig("timm", name="densenet121", image_size=64),  # also norms that follow no convolution
    ],
    ids=lambda config: config.name or config.kind,
)
def test_batch_norms_of_a_trunk_fold(config: TrunkConfig) -> None:
    trunk = shaken(Trunk(config))
    before = copy.deepcopy(trunk.state_dict())
    x = torch.randn(2, 3, 64, 64, dtype=torch.float64)
    expected = trunk(x)
    folded = fold.fold_batch_norms(trunk)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    # The random weights of a network with ReLU6 amplify rounding; a wrong fold differs in the first digit.
    rtol = 1e-4 if config.name else 1e-8
    torch.testing.assert_close(folded(x), expected, rtol=rtol, atol=0.1 * rtol * float(expected.abs().max()))
    assert all(torch.equal(before[name], tensor) for name, tensor in trunk.state_dict().items())


def test_batch_norms_of_the_residual_block_fold() -> None:
    block = shaken(ResidualBlock(8))
    x = torch.randn(2, 8, 3, 3, dtype=torch.float64)
    close(fold.fold_batch_norms(block)(x), block(x))


def test_batch_norm_without_a_convolution_becomes_a_scale() -> None:
    network = shaken(nn.Sequential(nn.ReLU(), nn.BatchNorm2d(3)))
    x = torch.randn(2, 3, 4, 5, dtype=torch.float64)
    close(fold.fold_batch_norms(network)(x), network(x))


@pytest.mark.parametrize("padding", [0, 1])
def test_pixel_scale_folds_into_the_first_convolution(padding: int) -> None:
    mean, std = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.3, 0.25])
    conv = shaken(nn.Conv2d(3, 4, 3, stride=2, padding=padding))
    assert isinstance(conv, nn.Conv2d)
    images = torch.randint(0, 256, (2, 9, 9, 3), dtype=torch.uint8)
    expected = conv(((images.double() / 255.0 - mean.double()) / std.double()).permute(0, 3, 1, 2))
    torch.testing.assert_close(conv(normalize(images, mean, std).double()), expected, rtol=1e-4, atol=1e-4)
    folded, shift = fold.fold_pixel_scale(conv, mean, std)
    assert (shift is None) == (padding == 0)
    pixels = images.permute(0, 3, 1, 2).double()
    close(folded(pixels if shift is None else pixels - shift), expected)


def test_shift_of_pixels_stays_before_a_convolution_that_pads_by_itself() -> None:
    """The padding of timm's Conv2dSame is not in its attribute `padding`."""
    conv = Trunk(TrunkConfig("timm", name="tf_efficientnet_lite0", image_size=64)).visual.get_submodule(
        "network.conv_stem"
    )
    assert isinstance(conv, nn.Conv2d)
    assert not any(conv.padding)
    _, shift = fold.fold_pixel_scale(conv, torch.full((3,), 0.5), torch.full((3,), 0.5))
    assert shift is not None


def test_shared_keys_equal_the_fusion_attention() -> None:
    module = shaken(SharedKeyAttention(10, WIDTH, HEADS, 0.0))
    assert isinstance(module, SharedKeyAttention)
    x = torch.randn(2, 5, 10, dtype=torch.float64)
    query, key = (split_heads(part, HEADS) for part in (x @ fold.fold_shared_keys(module)).chunk(2, dim=-1))
    attended, _ = attend(query, key, key)
    weight, bias = fold.linear_product(module.out)
    close(joined(attended) @ weight + bias, module(x))


def test_merge_equals_the_convolution_of_concatenated_tokens() -> None:
    conv = shaken(nn.Conv2d(8, 4, 1))
    assert isinstance(conv, nn.Conv2d)
    before, after = torch.randn(2, 2, 4, 3, 3, dtype=torch.float64)
    cosine = nn.functional.cosine_similarity(before, after, dim=1)
    expected = conv(torch.cat([before, after], dim=1) + cosine.unsqueeze(1))
    weight, of_cosine, bias = fold.fold_merge(conv)
    tokens = torch.cat([before, after], dim=1).flatten(2).transpose(1, 2)
    found = tokens @ weight + cosine.flatten(1).unsqueeze(-1) * of_cosine + bias
    close(found, expected.flatten(2).transpose(1, 2))


def test_transposed_kernel_equals_a_transposed_map() -> None:
    conv = shaken(nn.Conv2d(4, 5, 3, padding=1))
    assert isinstance(conv, nn.Conv2d)
    x = torch.randn(2, 4, 5, 5, dtype=torch.float64)
    close(fold.transpose_kernel(conv)(x), conv(x.transpose(2, 3)).transpose(2, 3))


def test_folded_pool_equals_the_attention_pool() -> None:
    pool = shaken(AttentionPool(WIDTH, HEADS))
    assert isinstance(pool, AttentionPool)
    tokens = torch.randn(4, 9, WIDTH, dtype=torch.float64)
    scores, value, out, bias = fold.fold_pool(pool)
    weights = torch.softmax(tokens @ scores, dim=1).transpose(1, 2)
    pooled = ((weights @ tokens).transpose(0, 1) @ value).transpose(0, 1).flatten(1)
    close(pool.norm(pooled @ out + bias), pool(tokens))


def test_folded_cross_attention_equals_the_module() -> None:
    """Keys and values of two layers without biases, the scaled query, and the value bias in the output."""
    layers = [attention(), attention()]
    text, tokens = torch.randn(2, 4, WIDTH, dtype=torch.float64), torch.randn(2, 9, WIDTH, dtype=torch.float64)
    parts = (tokens @ fold.fold_cross_memory(layers)).chunk(4, dim=-1)
    for layer, key, value in zip(layers, parts[:2], parts[2:], strict=True):
        query, query_bias = fold.fold_cross_query(layer)
        heads = (split_heads(part, HEADS) for part in (text @ query + query_bias, key, value))
        attended, _ = attend(*heads)
        weight, bias = fold.fold_value_bias(layer)
        close(joined(attended) @ weight + bias, layer(text, tokens, tokens)[0])


def test_folded_self_attention_equals_the_module() -> None:
    layer = attention()
    x = torch.randn(2, 5, WIDTH, dtype=torch.float64)
    causal = torch.ones(5, 5, dtype=torch.bool).triu(1)
    weight, query_bias = fold.fold_self_projection(layer)
    query, key, value = (x @ weight).chunk(3, dim=-1)
    query, key, value = (split_heads(part, HEADS) for part in (query + query_bias, key, value))
    attended, _ = attend(query, key, value, torch.where(causal, -1e9, 0.0))
    out, bias = fold.fold_value_bias(layer)
    close(joined(attended) @ out + bias, layer(x, x, x, attn_mask=causal)[0])


def test_first_layer_tables_equal_its_projection() -> None:
    projection = fold.fold_self_projection(attention())
    embedding, positions = torch.randn(7, WIDTH, dtype=torch.float64), torch.randn(4, WIDTH, dtype=torch.float64)
    tables = fold.fold_first_layer(embedding, positions, projection)
    expected = (embedding[5] + positions[2]) @ projection.weight
    expected[:WIDTH] += projection.query_bias
    close(tables.tokens[5] + tables.positions[2], expected)


def test_beams_sharing_keys_equal_single_beams() -> None:
    pairs, beams = 2, 3
    queries = torch.randn(pairs, beams, WIDTH, dtype=torch.float64)
    keys, values = torch.randn(2, pairs, HEADS, 9, WIDTH // HEADS, dtype=torch.float64)
    together, _ = attend(split_heads(queries, HEADS), keys, values)
    for beam in range(beams):
        alone, _ = attend(split_heads(queries[:, beam : beam + 1], HEADS), keys, values)
        close(together[:, :, beam : beam + 1], alone)


def test_folds_do_not_change_the_model() -> None:
    layer, pool = attention(), shaken(AttentionPool(WIDTH, HEADS))
    assert isinstance(pool, AttentionPool)
    before = [tensor.clone() for module in (layer, pool) for tensor in module.parameters()]
    fold.fold_self_projection(layer)
    fold.fold_cross_query(layer)
    fold.fold_value_bias(layer)
    fold.fold_cross_memory([layer])
    fold.fold_pool(pool)
    after = [tensor for module in (layer, pool) for tensor in module.parameters()]
    assert all(torch.equal(*pair) for pair in zip(before, after, strict=True))
