"""The `image_encoder` graph: pixels of B pairs → embedding, similarity, cross keys and values of the decoder.

Tokens keep one layout from the trunk to the merge, [B, S, 2, d] in image order. Viewed as [B, S, 2d], the tokens of
both images are concatenated along the channels; the attention within one image only splits its heads differently. So
the concatenations, splits and transposes of the published model are views here.

Attribute names of modules become names of weights in the ONNX files.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from rsicrc_export import fold
from rsicrc_export.half_precision import narrow, softmax, widen
from rsicrc_train.model import RSICRC, AttentionPool, FusionBlock, ImageEncoder, ResidualBlock

_COSINE_EPSILON = 1e-8


class ImageEncoderGraph(nn.Module):
    """Images → trunk on every image → fusion layers → merged tokens → pool, cross keys and values.

    Args:
        model: The model.
        fold_pixels: Fold the normalization of pixels into the first convolution; see `TokenTrunk`.
    """

    def __init__(self, model: RSICRC, *, fold_pixels: bool = True) -> None:
        super().__init__()
        encoder = model.encoder
        self.heads, self.width = model.config.num_heads, model.config.d_model
        self.trunk = TokenTrunk(encoder, fold_pixels=fold_pixels)
        self.fusion = nn.ModuleList()
        for layer in encoder.fusion:
            for block in (layer.date, layer.pair):
                self.fusion.append(nn.Identity() if block is None else BlockGraph(cast(FusionBlock, block)))
        self.merge = MergeGraph(encoder.merge, with_cosine=encoder.adds_cosine)
        self.residual = ResidualGraph(encoder.residual, model.config.image_trunk.map_size)
        self.pool = PoolGraph(encoder.pool)
        attentions = [layer.cross_attention for layer in model.decoder.multimodal]
        self.memory = nn.Buffer(fold.fold_cross_memory(cast(list[nn.MultiheadAttention], attentions)))

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Encode pixels uint8 [B, 2, size, size, 3].

        Returns:
            The embeddings [B, d], the similarity maps [B, h, w], the cross keys of all multimodal layers, and their
            cross values, each [B, H, S, dh].
        """
        first = x = self.trunk(images)
        for within_image, across in zip(self.fusion[::2], self.fusion[1::2], strict=True):
            if isinstance(within_image, BlockGraph):
                x = within_image(x) + x
            if isinstance(across, BlockGraph):
                x = across(x.flatten(2).unsqueeze(2)).view_as(x)
            x = x + first
        tokens, similarity = self.merge(x)
        tokens = self.residual(tokens)
        # [B, S, 2·M·d] → 2·M tensors [B, H, S, dh]
        memory = (tokens @ self.memory).reshape(*tokens.shape[:2], -1, self.heads, self.width // self.heads)
        maps = similarity.view(-1, *self.residual.map_shape)
        return self.pool(tokens), maps, *memory.permute(2, 0, 3, 1, 4).unbind()


class TokenTrunk(nn.Module):
    """Pixels of both images → tokens with positions [B, S, 2, d]: the trunk, the projection and the position embedding.

    Args:
        encoder: The image encoder of the model.
        fold_pixels: Fold the normalization into the first convolution, which then takes pixels from 0 to 255 and has
            weights about 70 times smaller than those of the model. A 16-bit type loses digits of such small numbers;
            without folding, the pixels are normalized in float32.
    """

    float32_buffers = ("shift", "scale")
    shift: Tensor | None
    scale: Tensor | None
    proj: Tensor | None

    def __init__(self, encoder: ImageEncoder, *, fold_pixels: bool) -> None:
        super().__init__()
        self.is_transformer = encoder.trunk.config.kind == "clip_vit"
        self.visual = fold.fold_batch_norms(encoder.trunk.visual)
        shift: Tensor | None = 255.0 * encoder.mean
        scale: Tensor | None = 1.0 / (255.0 * encoder.std)
        if fold_pixels:
            first = next(name for name, module in self.visual.named_modules() if isinstance(module, nn.Conv2d))
            conv = cast(nn.Conv2d, self.visual.get_submodule(first))
            conv, shift = fold.fold_pixel_scale(conv, encoder.mean, encoder.std)
            self.visual.set_submodule(first, conv)
            scale = None
        self.register_buffer("shift", shift)
        self.register_buffer("scale", scale)
        edge = encoder.trunk.config.map_size
        positions = encoder._positions(edge).detach()
        proj = None
        if isinstance(encoder.proj, nn.Conv2d):
            # (x @ W + b) + p = x @ W + (b + p): fold the bias of the projection into the positions.
            proj, bias = fold.pointwise_product(encoder.proj)
            positions = positions + bias
        self.register_buffer("proj", proj)
        self.positions = nn.Buffer(positions[:, None].clone())

    def forward(self, images: Tensor) -> Tensor:
        """Compute the tokens [B, S, 2, d] of pixels uint8 [B, 2, size, size, 3]."""
        pixels = self._pixels(images)
        x = self.visual(pixels)[1].transpose(1, 2) if self.is_transformer else self.visual(pixels).flatten(2)
        x = x.reshape(images.shape[0], 2, *x.shape[1:]).permute(0, 3, 1, 2)  # [2B, C, S] → [B, S, 2, C]
        if self.proj is not None:
            x = x @ self.proj
        return cast(Tensor, x + self.positions)

    def _pixels(self, images: Tensor) -> Tensor:
        """Convert pixels uint8 [B, 2, size, size, 3] to the input of the first convolution [2B, 3, size, size]."""
        if self.scale is not None and self.shift is not None:
            return fold.stack_images(narrow((images.to(self.scale.dtype) - self.shift) * self.scale, self.positions))
        pixels = fold.stack_images(images.to(self.positions.dtype))
        return pixels if self.shift is None else pixels - self.shift


class BlockGraph(nn.Module):
    """A fusion block on [B, S, G, width]: attention within each of G groups of tokens, then a feed-forward network."""

    def __init__(self, block: FusionBlock) -> None:
        super().__init__()
        attention, first, last = block.attention, block.feed_forward[0], block.feed_forward[3]
        self.heads = attention.heads
        self.query_key = nn.Buffer(fold.fold_shared_keys(attention))
        self.out = ProductGraph(fold.linear_product(attention.out))
        self.attention_norm = block.attention_norm
        self.hidden = ProductGraph(fold.linear_product(cast(nn.Linear, first)))
        self.last = ProductGraph(fold.linear_product(cast(nn.Linear, last)))
        self.feed_forward_norm = block.feed_forward_norm

    def forward(self, x: Tensor) -> Tensor:
        """Transform tokens [B, S, G, width]."""
        # [B, S, G, 2·a_dim] → query and key [B, G, H, S, dh]
        projected = (x @ self.query_key).reshape(*x.shape[:3], 2, self.heads, -1).permute(3, 0, 2, 4, 1, 5)
        query, key = projected.unbind()
        attended = narrow(softmax(query @ key.transpose(-1, -2)), key) @ key
        # Only the attention needs the groups. On three axes TensorRT fuses a product with its bias and ReLU.
        rows = x.flatten(1, 2)
        rows = self.attention_norm(self.out(attended.permute(0, 3, 1, 2, 4).reshape(*rows.shape[:2], -1)) + rows)
        out: Tensor = self.feed_forward_norm(self.last(functional.relu(self.hidden(rows))) + rows)
        return out.view_as(x)


class MergeGraph(nn.Module):
    """Tokens of both images → one token for each grid cell, and the cosine of the two tokens.

    Args:
        conv: Convolution that merges the tokens.
        with_cosine: Add the cosine to the tokens before they are merged.
    """

    def __init__(self, conv: nn.Conv2d, *, with_cosine: bool = True) -> None:
        super().__init__()
        self.with_cosine = with_cosine
        folded = fold.fold_merge(conv)
        self.weight, self.cosine, self.bias = (nn.Buffer(part) for part in folded)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Merge tokens [B, S, 2, d] to tokens [B, S, d], and return their cosines [B, S]."""
        wide = widen(x)
        before, after = wide.unbind(2)
        lengths = wide.square().sum(-1).sqrt().clamp_min(_COSINE_EPSILON)
        cosine = (before * after).sum(-1) / (lengths[..., 0] * lengths[..., 1])
        merged = x.flatten(2) @ self.weight
        if self.with_cosine:
            return merged + (narrow(cosine, x).unsqueeze(-1) * self.cosine + self.bias), cosine
        return merged + self.bias, cosine


class ResidualGraph(nn.Module):
    """The residual block on tokens in image order; only the 3×3 convolution needs a map."""

    def __init__(self, block: ResidualBlock, edge: int) -> None:
        super().__init__()
        left = fold.fold_batch_norms(block.left)
        narrow, around, wide = (cast(nn.Conv2d, left.get_submodule(name)) for name in ("0", "3", "6"))
        self.map_shape = (edge, edge)
        self.narrow = ProductGraph(fold.pointwise_product(narrow))
        self.around = fold.transpose_kernel(around)
        self.wide = ProductGraph(fold.pointwise_product(wide))

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform tokens [B, S, d]."""
        maps = functional.relu(self.narrow(tokens)).transpose(1, 2).reshape(tokens.shape[0], -1, *self.map_shape)
        around = functional.relu(self.around(maps)).flatten(2).transpose(1, 2)
        return functional.relu(self.wide(around) + tokens)


class PoolGraph(nn.Module):
    """The attention pool, with its only query folded into the keys → embedding of the pair, of length 1."""

    def __init__(self, pool: AttentionPool) -> None:
        super().__init__()
        self.scores, self.value, self.out, self.bias = (nn.Buffer(part) for part in fold.fold_pool(pool))
        self.norm = pool.norm

    def forward(self, tokens: Tensor) -> Tensor:
        """Pool tokens [B, S, d] to embeddings [B, d]."""
        weights = narrow(softmax((tokens @ self.scores).transpose(1, 2)), tokens)
        pooled = (weights @ tokens).transpose(0, 1) @ self.value  # [H, B, d] @ [H, d, dh]
        embedding = torch.addmm(self.bias, pooled.transpose(0, 1).flatten(1), self.out)
        return functional.normalize(widen(self.norm(embedding)), dim=-1)


class ProductGraph(nn.Module):
    """A linear layer with its weight stored as [in, out]."""

    def __init__(self, product: fold.Product) -> None:
        super().__init__()
        self.weight, self.bias = nn.Buffer(product.weight), nn.Buffer(product.bias)

    def forward(self, x: Tensor) -> Tensor:
        """Multiply x [..., in] by the weight and add the bias → [..., out]."""
        if x.dim() == 2:
            return torch.addmm(self.bias, x, self.weight)  # exported as one Gemm
        return x @ self.weight + self.bias
