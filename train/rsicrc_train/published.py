"""Reader of the published checkpoint: `model_best.pt`, `config.json` and `levir_vocab.json`.

Tensor names, options and their defaults are those of Ferrod, Di Caro, Ienco (Discovery Science 2024, arXiv 2406.13424).
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rsicrc.datasets.levir_cc import NO_CHANGE_SENTENCES
from rsicrc.errors import CheckpointError
from rsicrc_train.checkpoint import Checkpoint, check_vocabulary, expected_tensors
from rsicrc_train.config import ModelConfig, TrunkConfig
from rsicrc_train.model import RSICRC, sinusoids
from rsicrc_train.quoting import list_names, quote
from rsicrc_train.state_dicts import fit_tensors, read_weights

# Model options in config.json, with the published defaults.
_MODEL_OPTIONS: dict[str, Any] = {
    "backbone": "RN50",
    "d_model": 2048,
    "max_len": 41,
    "encoder_layers": 3,
    "decoder_layers": 1,
    "num_heads": 8,
    "h_dim": 512,
    "a_dim": 2048,
    "dropout": 0.1,
    "learnable": False,
    "tie_embeddings": True,
    "prenorm": False,
}
# Training options in config.json; they have no effect on a trained model.
_TRAINING_OPTIONS = ("fine_tune", "fna", "s-threshold", "s-transformers")
# Keys that the hub's libraries add to config.json, with names that begin with an underscore too.
_HUB_KEYS = frozenset(
    (
        "architectures", "auto_map", "bos_token_id", "chunk_size_feed_forward", "custom_pipelines",
        "decoder_start_token_id", "dtype", "eos_token_id", "finetuning_task", "id2label", "is_decoder",
        "is_encoder_decoder", "label2id", "library_name", "license", "model_type", "output_attentions",
        "output_hidden_states", "pad_token_id", "pipeline_tag", "prefix", "problem_type", "quantization_config",
        "return_dict", "sep_token_id", "tags", "task_specific_params", "tie_word_embeddings", "tokenizer_class",
        "torch_dtype", "torchscript", "transformers.js_config", "transformers_version", "use_bfloat16", "use_cache",
    )
)  # fmt: skip
_LARGEST_JSON = 1 << 26  # bytes

_NET = "encoder.encoder.net."
_EMBEDDING, _OUTPUT = "decoder.tokens_embed.weight", "decoder.lm_head.weight"
_SINUSOIDS = "decoder.position_encoding.pe"
_POSITIONS, _LEARNED = "decoder.position_encoding.", "decoder.position_encoding.learned"
# Unused tensors: the fusion attention computes its values by the keys' matrix, and of a vision transformer only the
# patch tokens are used, not the pooled and projected output.
_UNUSED = re.compile(r"encoder\.encoder_trans\.selftrans\.\d+\.[01]\.att\.to_v\.weight|encoder\.encoder\.net\.proj")

# Names in `RSICRC` → published names, applied in this order.
_RENAMES = tuple(
    (re.compile(name), published)
    for name, published in (
        (r"^encoder\.proj\.", r"encoder.encoder.proj."),
        # In the published code, the table of columns is named h, and the table of rows w.
        (r"^encoder\.column_embedding\.", r"encoder.encoder_trans.h_embedding."),
        (r"^encoder\.row_embedding\.", r"encoder.encoder_trans.w_embedding."),
        (r"^encoder\.fusion\.(\d+)\.date\.", r"encoder.encoder_trans.selftrans.\1.0."),
        (r"^encoder\.fusion\.(\d+)\.pair\.", r"encoder.encoder_trans.selftrans.\1.1."),
        (r"(selftrans\.\d+\.\d)\.attention\.query\.", r"\1.att.to_q."),
        (r"(selftrans\.\d+\.\d)\.attention\.key\.", r"\1.att.to_k."),
        (r"(selftrans\.\d+\.\d)\.attention\.out\.", r"\1.att.to_out.0."),
        (r"(selftrans\.\d+\.\d)\.feed_forward\.", r"\1.feedforward.net."),
        (r"(selftrans\.\d+\.\d)\.attention_norm\.", r"\1.norm1."),
        (r"(selftrans\.\d+\.\d)\.feed_forward_norm\.", r"\1.norm2."),
        (r"^encoder\.merge\.", r"encoder.Conv1."),
        (r"^encoder\.residual\.", r"encoder.LN."),
        (r"^encoder\.pool\.query$", r"encoder.img_queries"),
        (r"^encoder\.pool\.attention\.", r"encoder.att_pool."),
        (r"^encoder\.pool\.norm\.", r"encoder.att_pool_norm."),
        (r"^decoder\.embedding\.", r"decoder.tokens_embed."),
        (r"^decoder\.positions$", r"decoder.position_encoding.learned"),
        (r"^decoder\.output\.", r"decoder.lm_head."),
        (r"^decoder\.unimodal\.", r"decoder.uni_decoder."),
        (r"^decoder\.multimodal\.", r"decoder.cross_decoder."),
        (r"(_decoder\.\d+)\.self_attention\.", r"\1.self_attn."),
        (r"(_decoder\.\d+)\.cross_attention\.", r"\1.cross_attn."),
        (r"(_decoder\.\d+)\.self_norm\.", r"\1.sa_norm."),
        (r"(_decoder\.\d+)\.cross_norm\.", r"\1.mha_norm."),
        (r"(_decoder\.\d+)\.feed_forward\.0\.", r"\1.ff_linear1."),
        (r"(_decoder\.\d+)\.feed_forward\.3\.", r"\1.ff_linear2."),
        (r"(_decoder\.\d+)\.feed_forward_norm\.", r"\1.ff_norm."),
    )
)


def load_published(weights: Path, config: Path, vocab: Path, *, trunk: TrunkConfig | None = None) -> Checkpoint:
    """Read published weights as a `Checkpoint` with float32 tensors.

    Args:
        weights: State dict, such as `model_best.pt` or `pytorch_model.bin`, or the same as `.safetensors`.
        config: `config.json`; an option that it leaves out has its published default. The hub's own keys have no
            effect.
        vocab: `levir_vocab.json`, the id of every token.
        trunk: Sizes of the trunk if they differ from those of the backbone in `config`.

    Raises:
        CheckpointError: A file is missing or damaged, an option is unknown or invalid, tensors are missing, unknown or
            wrongly shaped, or a tensor has a wrong type or NaN or infinite values; the message names it.
    """
    options = _read_options(config)
    try:
        model_config = _model_config(options, trunk)
    except CheckpointError as error:
        raise CheckpointError(f"{config}: {error}") from error
    tokens = _read_vocabulary(vocab)
    tensors = read_weights(weights)
    _complete(tensors, model_config)
    return Checkpoint(
        config=model_config,
        vocabulary=tokens,
        no_change_sentences=_no_change_sentences(tokens),
        state_dict=_renamed(tensors, model_config, tokens, weights),
        training={"published": {"weights": weights.name, "config": options}},
    )


def published_names(model: RSICRC) -> dict[str, str]:
    """Return the published name of each tensor by its name in `RSICRC`."""
    # The published code names a ResNet's parts by their position; a vision transformer keeps its own names.
    numbered = model.config.image_trunk.kind != "clip_vit"
    parts = {name: str(number) for number, (name, _) in enumerate(model.encoder.trunk.visual.named_children())}
    names = {}
    for name in model.state_dict():
        published = name
        if name.startswith("encoder.trunk.visual."):
            part, _, rest = name.removeprefix("encoder.trunk.visual.").partition(".")
            published = f"{_NET}{parts[part] if numbered else part}" + (f".{rest}" if rest else "")
        for pattern, replacement in _RENAMES:
            published = pattern.sub(replacement, published)
        names[name] = published
    return names


def _renamed(tensors: dict[str, Tensor], config: ModelConfig, tokens: tuple[str, ...], path: Path) -> dict[str, Tensor]:
    """Return the tensors under the names in `RSICRC`, checked against the model that `config` describes."""
    wanted = expected_tensors(config, len(tokens))
    with torch.device("meta"):  # names without the memory
        names = published_names(RSICRC(config, len(tokens)))
    used = {name: tensor for name, tensor in tensors.items() if not _UNUSED.fullmatch(name)}
    expected = {published: wanted[name] for name, published in names.items()}
    fitted = fit_tensors(used, expected, str(path), "the published layout with this config and vocabulary")
    return {name: fitted[published] for name, published in names.items()}


def _complete(tensors: dict[str, Tensor], config: ModelConfig) -> None:
    """Add, in place, tensors that a published file may leave out, and remove computed ones.

    Raises:
        CheckpointError: The file contradicts an option of the config.
    """
    if not config.learnable and (saved := tensors.pop(_SINUSOIDS, None)) is not None:
        computed = sinusoids(config.max_len, config.d_model).unsqueeze(0)
        # The tolerance allows float16 weights.
        fits = saved.is_floating_point() and saved.shape == computed.shape
        if not fits or not torch.allclose(saved.float(), computed, atol=1e-3):
            raise CheckpointError(
                f"{_SINUSOIDS} {tuple(saved.shape)} does not hold the sinusoids for max_len = {config.max_len} and "
                f"d_model = {config.d_model}: use the config.json of these weights"
            )
    if config.learnable:
        # Their published name is not documented; no other tensor under this prefix has their size.
        size = config.max_len * config.d_model
        learned = [name for name in tensors if name.startswith(_POSITIONS) and tensors[name].numel() == size]
        if len(learned) == 1:
            tensors[_LEARNED] = tensors.pop(learned[0]).reshape(config.max_len, config.d_model)
    if config.tie_embeddings:  # one matrix under two names, of which safetensors stores one
        tied = [tensors[name] for name in (_EMBEDDING, _OUTPUT) if name in tensors]
        if len(tied) == 2 and not _equal(*tied):
            raise CheckpointError(f"tie_embeddings is true, but {_EMBEDDING} and {_OUTPUT} differ: set it to false")
        if tied:
            tensors[_EMBEDDING] = tensors[_OUTPUT] = tied[0]
    if config.num_heads == 1:
        # One head as wide as the tokens needs no output projection; if the file has none, use the identity.
        for layer in range(config.encoder_layers):
            for block, width in enumerate((config.d_model, 2 * config.d_model)):
                out = f"encoder.encoder_trans.selftrans.{layer}.{block}.att.to_out.0"
                key = tensors.get(f"encoder.encoder_trans.selftrans.{layer}.{block}.att.to_k.weight")
                if key is not None and key.shape == (config.a_dim, width) and config.a_dim == width:
                    tensors.setdefault(f"{out}.weight", torch.eye(width))
                    tensors.setdefault(f"{out}.bias", torch.zeros(width))


def _read_options(path: Path) -> dict[str, Any]:
    """Read the options of config.json, and check their types."""
    plain = _read_json(path, "--config")
    known = (*_MODEL_OPTIONS, *_TRAINING_OPTIONS)
    options = {name: value for name, value in plain.items() if name not in _HUB_KEYS and not name.startswith("_")}
    if unknown := sorted(set(options) - set(known)):
        raise CheckpointError(f"{path}: unknown option(s) {list_names(unknown)}; known are {', '.join(sorted(known))}")
    for name, default in _MODEL_OPTIONS.items():
        value = options.get(name, default)
        fits = type(value) is type(default) or (name == "dropout" and type(value) is int)
        if not fits:
            raise CheckpointError(f"{path}: {name} = {quote(value)} should be like {default!r}")
    return options


def _model_config(options: dict[str, Any], trunk: TrunkConfig | None) -> ModelConfig:
    values = {name: options.get(name, default) for name, default in _MODEL_OPTIONS.items()}
    layers = values.pop("decoder_layers")  # this number of unimodal and of multimodal layers
    if layers < 1:
        raise CheckpointError(f"decoder_layers = {quote(layers)} should be at least 1")
    return ModelConfig(**values, trunk=trunk, unimodal_layers=layers, multimodal_layers=layers)


def _read_vocabulary(path: Path) -> tuple[str, ...]:
    """Return the tokens of the vocabulary in the order of their ids."""
    ids = _read_json(path, "--vocab")
    if not all(type(number) is int for number in ids.values()) or sorted(ids.values()) != list(range(len(ids))):
        raise CheckpointError(f"{path} is not a vocabulary: each token should have one of the ids 0 to {len(ids) - 1}")
    return check_vocabulary(sorted(ids, key=lambda token: int(ids[token])), str(path))


def _no_change_sentences(tokens: tuple[str, ...]) -> tuple[str, ...]:
    """Return the five sentences of LEVIR-CC, or none if the vocabulary belongs to another data set."""
    known = set(tokens)
    return NO_CHANGE_SENTENCES if all(known.issuperset(text.split()) for text in NO_CHANGE_SENTENCES) else ()


def _read_json(path: Path, option: str) -> dict[str, Any]:
    try:
        if not path.is_file():
            raise CheckpointError(f"no file {path}: give the file of the published weights with {option}")
        if path.stat().st_size > _LARGEST_JSON:
            raise CheckpointError(f"{path} is larger than {_LARGEST_JSON >> 20} MiB: it is not the file for {option}")
        plain = json.loads(path.read_text(encoding="utf-8-sig"))
    except CheckpointError:
        raise
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a JSON file: {error}") from error
    if not isinstance(plain, dict):
        raise CheckpointError(f"{path} holds a {type(plain).__name__}, not a JSON object")
    return plain


def _equal(one: Tensor, other: Tensor) -> bool:
    """Return True for floating-point tensors of equal shapes and values; their types may differ."""
    if not one.is_floating_point() or not other.is_floating_point() or one.shape != other.shape:
        return False
    return torch.equal(one.float(), other.float())
