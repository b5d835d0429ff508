"""The batched beam search of an exported folder against transformers' `generate` on the PyTorch model."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import GenerationMixin, PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import CausalLMOutput

import rsicrc
from rsicrc.decoding.beam_search import FinishedBeam, beam_search
from rsicrc.decoding.options import CaptionOptions
from rsicrc.text.vocabulary import END, PAD, START
from rsicrc_export.model_folder import export_checkpoint
from rsicrc_export.source import Source
from rsicrc_train import checkpoint
from rsicrc_train.model import RSICRC
from tests.models import random_checkpoint, random_images, with_options

Beams = Sequence[Sequence[FinishedBeam]]
PAIRS = 10
# The published model has these in the reverse order.
OTHER = {"prenorm": True, "tie_embeddings": False, "learnable": True, "unimodal_layers": 2, "multimodal_layers": 2}


class Oracle(PreTrainedModel, GenerationMixin):  # type: ignore[no-untyped-call]
    """The plain PyTorch model as a language model of transformers: no cache, the whole sentence at every step."""

    config_class = PretrainedConfig

    def __init__(self, model: RSICRC) -> None:
        config: Any = PretrainedConfig()
        config.vocab_size = model.decoder.output.out_features
        super().__init__(config)
        self.model = model

    def forward(self, input_ids: torch.Tensor, visual: torch.Tensor, **_: Any) -> CausalLMOutput:
        return CausalLMOutput(logits=self.model.decode(self.model.encode_text(input_ids).hidden, visual))

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, *_: Any, **kwargs: Any) -> dict[str, Any]:
        return {"input_ids": input_ids, "visual": kwargs["visual"]}


class Case(NamedTuple):
    engine: rsicrc.Engine
    oracle: Any  # an Oracle; transformers' own types do not admit one
    images: NDArray[np.uint8]
    visual: torch.Tensor


@pytest.fixture(scope="module", params=["published", "other"])
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Case:
    if request.param == "published":
        saved = checkpoint.load(request.getfixturevalue("checkpoint_file"))
        folder = request.getfixturevalue("model_folder")
    else:
        saved = random_checkpoint(2, with_options(**OTHER))
        folder = tmp_path_factory.mktemp("other") / "model"
        checkpoint.save(saved, folder.parent / "ckpt.pt")
        export_checkpoint(Source.read(folder.parent / "ckpt.pt"), folder)
    model = saved.build_model()
    images = random_images(PAIRS, seed=7)
    with torch.no_grad():
        visual = model.encode_images(torch.from_numpy(images)).tokens
    return Case(rsicrc.load(folder, threads=1), Oracle(model), images, visual)


def search(engine: rsicrc.Engine, images: NDArray[np.uint8], **options: Any) -> Beams:
    cross = engine.backend.run("image_encoder", {"images": images})
    cross = {name: value for name, value in cross.items() if name.startswith("cross_")}
    settings = CaptionOptions(**options).resolve(engine.manifest)
    return beam_search(engine.backend, cross, len(images), settings).sentences


def generate(case: Case, options: dict[str, Any]) -> Beams:
    """Return the beams of `generate` of transformers as `FinishedBeam`."""
    beams = options["beams"]
    only_for_beams = {name: options[name] for name in ("length_penalty", "early_stopping")} if beams > 1 else {}
    answer = case.oracle.generate(
        torch.full((PAIRS, 1), START),
        visual=case.visual,
        num_beams=beams,
        num_return_sequences=options["n_best"],
        max_length=options["max_length"],
        do_sample=False,
        use_cache=False,
        pad_token_id=PAD,
        eos_token_id=END,
        return_dict_in_generate=True,
        output_scores=True,
        **only_for_beams,
    )
    log_probs = case.oracle.compute_transition_scores(
        answer.sequences, answer.scores, getattr(answer, "beam_indices", None), normalize_logits=beams == 1
    )
    finished = []
    for row, sequence in enumerate(answer.sequences[:, 1:].tolist()):
        ids = tuple(sequence[: sequence.index(END) + 1] if END in sequence else sequence)
        tokens = tuple(log_probs[row, : len(ids)].tolist())
        greedy = sum(tokens) / len(ids) ** options["length_penalty"]  # `generate` gives no score for greedy search
        score = greedy if beams == 1 else float(answer.sequences_scores[row])
        finished.append(FinishedBeam(ids, score, tokens))
    return [finished[start : start + options["n_best"]] for start in range(0, len(finished), options["n_best"])]


def assert_same(ours: Beams, expected: Beams, tolerance: float = 1e-4) -> None:
    assert [[beam.ids for beam in beams] for beams in ours] == [[beam.ids for beam in beams] for beams in expected]
    for one, other in zip(chain.from_iterable(ours), chain.from_iterable(expected), strict=True):
        assert one.score == pytest.approx(other.score, rel=tolerance, abs=tolerance)
        np.testing.assert_allclose(one.token_log_probs, other.token_log_probs, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("length_penalty", [0.0, 0.6, 1.0, 2.0])
@pytest.mark.parametrize("beams", [1, 3, 5])
def test_beam_search_equals_transformers(case: Case, beams: int, length_penalty: float, early_stopping: bool) -> None:
    options = {"beams": beams, "n_best": beams, "length_penalty": length_penalty, "early_stopping": early_stopping}
    options["max_length"] = 12
    ours = search(case.engine, case.images, **options)
    assert_same(ours, generate(case, options))
    # The lengths in one batch must differ, or the test would not cover finished pairs.
    assert len({len(beams[0].ids) for beams in ours}) > 1
    for pair in range(0, PAIRS, 4):
        assert_same(search(case.engine, case.images[pair : pair + 1], **options), [ours[pair]], tolerance=1e-5)


@pytest.mark.parametrize("max_length", [2, 3, 7])
def test_beam_search_with_short_limits_equals_transformers(case: Case, max_length: int) -> None:
    options = {"beams": 4, "n_best": 2, "length_penalty": 1.0, "early_stopping": False, "max_length": max_length}
    ours = search(case.engine, case.images, **options)
    assert_same(ours, generate(case, options))
    assert max(len(beam.ids) for beams in ours for beam in beams) == max_length - 1
