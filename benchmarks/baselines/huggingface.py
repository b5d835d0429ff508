"""Hugging Face baseline: `generate` of transformers with its own cache, over a wrapper of the model."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache, GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutputWithPast

from baselines.beam_search import cut
from baselines.cached_decoder import CachedDecoder
from baselines.implementation import Setup
from baselines.pytorch import PyTorch
from rsicrc.text.vocabulary import END, PAD, START
from rsicrc_train.model import RSICRC, ImageFeatures


class Captioner(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    """The decoder as a transformers language model; `generate` repeats the visual keys and values for the beams."""

    config_class = PretrainedConfig

    def __init__(self, model: RSICRC) -> None:
        config: Any = PretrainedConfig()
        config.vocab_size = model.decoder.output.out_features
        config.num_hidden_layers = model.config.unimodal_layers + model.config.multimodal_layers
        super().__init__(config)
        self.decoder = CachedDecoder(model.decoder)

    def forward(self, input_ids: Tensor, memory: Tensor, past_key_values: DynamicCache, **_: Any) -> Any:
        """Return the next token's logits; memory [R, layers, 2, H, S, dh] has the cross-attention keys and values."""
        cross = [(keys, values) for keys, values in (layer.unbind(1) for layer in memory.unbind(1))]
        position = past_key_values.get_seq_length()

        def update(layer: int, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
            keys, values = past_key_values.update(key, value, layer)
            return keys, values

        logits = self.decoder(input_ids[:, -1], position, cross, update)
        return CausalLMOutputWithPast(logits=logits.unsqueeze(1), past_key_values=past_key_values)

    def prepare_inputs_for_generation(self, input_ids: Tensor, *_: Any, **kwargs: Any) -> dict[str, Any]:
        """Return the arguments of `forward`."""
        return {"input_ids": input_ids, "memory": kwargs["memory"], "past_key_values": kwargs["past_key_values"]}


class HuggingFace(PyTorch):
    """The model's image encoder, then `generate`."""

    def __init__(self, setup: Setup) -> None:
        super().__init__(setup)
        captioner: Any = Captioner(self.model)
        self.captioner = captioner.eval().to(self.device)

    @torch.no_grad()
    def search(self, encoded: ImageFeatures, beams: int) -> list[list[int]]:
        """Call `generate`, greedy or with beams."""
        layers = self.captioner.decoder.cross_keys_values(encoded.tokens)
        memory = torch.stack([torch.stack(layer, dim=1) for layer in layers], dim=1)
        options = {"early_stopping": True, "length_penalty": 1.0} if beams > 1 else {}
        ids = self.captioner.generate(
            torch.full((len(encoded.tokens), 1), START, device=self.device),
            memory=memory,
            num_beams=beams,
            max_length=self.max_length,
            do_sample=False,
            pad_token_id=PAD,
            eos_token_id=END,
            **options,
        )
        return [cut(caption) for caption in ids[:, 1:].tolist()]
