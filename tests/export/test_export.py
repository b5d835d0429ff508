"""The exported folder: files of the graphs, parity check, and replacement of an existing folder."""

from __future__ import annotations

import errno
import getpass
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir
import onnxruntime
import pytest
import torch

import rsicrc
from rsicrc.backends.onnxruntime import OnnxRuntimeBackend
from rsicrc.errors import CheckpointError, ExportError
from rsicrc.manifest import DECODER, GRAPH_NAMES, IMAGE_ENCODER, SCORER, TEXT_ENCODER, Manifest, TensorSpec, sha256_file
from rsicrc.text.change_calibration import ChangeCalibration
from rsicrc_export import model_folder
from rsicrc_export.model_folder import export_checkpoint, recorded_calibration
from rsicrc_export.onnx_export import OPSET, check_signature, export_graph, signatures
from rsicrc_export.parity import BEAMS, PAIRS, check_parity, example_images
from rsicrc_export.source import Source
from rsicrc_train import checkpoint
from rsicrc_train.config import ModelConfig, TrunkConfig
from rsicrc_train.model import RSICRC
from tests.models import SMALL, random_checkpoint, with_options

VARIED = {"B", "K", "P", "n", "n - 1", "N"}


@pytest.fixture(scope="session")
def model(checkpoint_file: Path) -> RSICRC:
    return checkpoint.load(checkpoint_file).build_model().requires_grad_(False)


@pytest.fixture
def folder(model_folder: Path, tmp_path: Path) -> Path:
    """Return a copy of the exported folder, without graphs that OpenVINO cached there in another test."""
    return shutil.copytree(model_folder, tmp_path / "model", ignore=shutil.ignore_patterns("engines"))


class Stop(Exception):  # noqa: N818
    """Error raised on purpose during an export."""


def leftovers(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


# ---- the files


def test_graphs_have_their_declared_axes(model_folder: Path, model: RSICRC) -> None:
    """Names, dtypes and shapes in the files are those of the manifest, and only the named axes vary."""
    manifest, expected = Manifest.load(model_folder), signatures(model)
    assert list(manifest.graphs) == list(GRAPH_NAMES)
    for name, graph in manifest.graphs.items():
        assert (graph.inputs, graph.outputs) == (expected[name].inputs, expected[name].outputs)
        loaded = onnx_ir.load(model_folder / graph.file)
        check_signature(loaded, name, expected[name])
        specs = [*graph.inputs.values(), *graph.outputs.values()]
        assert {axis for spec in specs for axis in spec.shape if isinstance(axis, str)} <= VARIED
    heads, width = SMALL.num_heads, SMALL.d_model // SMALL.num_heads
    decoder = manifest.graphs[DECODER]
    assert decoder.inputs["self_keys_1"] == TensorSpec("float32", ("B", heads, "P", width))
    assert decoder.inputs["position"] == TensorSpec("int64", ())
    assert decoder.outputs["unfinished"] == TensorSpec("int64", ())
    assert {f"next_{name}" for name in decoder.inputs} >= set(decoder.outputs) - {"unfinished"}
    assert manifest.graphs[SCORER].outputs["attention"].shape == ("B", "N", "n", 9)


def test_constant_axis_is_refused(model_folder: Path, model: RSICRC) -> None:
    loaded = onnx_ir.load(model_folder / "text_encoder.onnx")
    loaded.graph.inputs[0].shape = onnx_ir.Shape((3, "n"))
    with pytest.raises(ExportError, match=r"input_ids is .*3, 'n'.*, not .*'B', 'n'"):
        check_signature(loaded, TEXT_ENCODER, signatures(model)[TEXT_ENCODER])


def test_files_contain_no_traces_of_the_machine(model_folder: Path) -> None:
    """Files contain no paths, stack traces or user names of the exporting machine."""
    private = [
        str(Path(__file__).resolve().parents[2]),
        str(Path.home()),
        str(Path.cwd()),
        "site-packages",
        "Traceback",
    ]
    private += [".py", "stack_trace", "pkg.torch", f"/{getpass.getuser()}"]
    for path in (model_folder / name for name in [*Manifest.load(model_folder).files, "manifest.json"]):
        content = path.read_bytes()
        assert not [text for text in private if text.encode() in content], path.name
    for name in GRAPH_NAMES:
        loaded = onnx.load(model_folder / f"{name}.onnx")
        onnx.checker.check_model(loaded)
        assert [(entry.domain, entry.version) for entry in loaded.opset_import] == [("", OPSET)]
        assert not loaded.metadata_props
        assert not any(node.doc_string or node.metadata_props for node in loaded.graph.node)


def test_exports_of_one_model_are_byte_identical(model_folder: Path, model: RSICRC, tmp_path: Path) -> None:
    export_graph(model, TEXT_ENCODER, tmp_path)
    assert (tmp_path / "text_encoder.onnx").read_bytes() == (model_folder / "text_encoder.onnx").read_bytes()


# ---- parity


def test_parity_report_is_in_the_manifest(model_folder: Path) -> None:
    report = Manifest.load(model_folder).parity
    assert set(report["comparisons"]) == set(GRAPH_NAMES)
    for comparisons in report["comparisons"].values():
        for comparison in comparisons:
            assert 0.0 <= comparison["largest_difference"] <= comparison["tolerance"]
            assert comparison["inputs"]
    assert PAIRS == (1, 2, 5)
    assert BEAMS == (1, 5)


@pytest.mark.parametrize(
    ("name", "graphs"),
    [
        ("encoder.pool.attention.out_proj.weight", {IMAGE_ENCODER}),
        ("decoder.unimodal.0.feed_forward.3.weight", {TEXT_ENCODER, SCORER, DECODER}),
        ("decoder.multimodal.0.cross_attention.in_proj_weight", {IMAGE_ENCODER, SCORER, DECODER}),
    ],
)
@pytest.mark.parametrize("broken", [1.05, float("nan")], ids=["off", "nan"])
def test_parity_fails_when_weights_differ(
    name: str, graphs: set[str], broken: float, model_folder: Path, checkpoint_file: Path
) -> None:
    other = checkpoint.load(checkpoint_file).build_model().requires_grad_(False)
    other.get_parameter(name).mul_(broken)  # a checkpoint with NaN is refused
    manifest = Manifest.load(model_folder)
    with pytest.raises(ExportError, match="do not equal the PyTorch model") as caught:
        check_parity(other, manifest, OnnxRuntimeBackend(model_folder, manifest, 1))
    assert {graph for graph in GRAPH_NAMES if f"{graph}: " in str(caught.value)} == graphs


def test_golden_file_matches_the_engine(model_folder: Path) -> None:
    engine, golden = rsicrc.load(model_folder, threads=1), np.load(model_folder / "golden.npz")
    pairs = [(pair[0], pair[1]) for pair in golden["images"]]
    np.testing.assert_allclose(engine.embed_images(pairs), golden["image_embedding"], atol=1e-5)
    assert golden["similarity"].shape == (2, 3, 3)
    assert golden["log_probs"].shape == (2, 4, SMALL.max_len - 1)
    assert golden["attention"].shape == (2, 4, SMALL.max_len, 9)
    for beams in (1, 3, 5):
        captions = engine.caption(pairs, beams=beams, n_best=beams)
        for caption, ids, scores in zip(
            captions, golden[f"caption_ids_{beams}"], golden[f"caption_scores_{beams}"], strict=True
        ):
            assert [best.text for best in caption.n_best] == [engine.vocabulary.decode(row) for row in ids]
            np.testing.assert_allclose([best.score for best in caption.n_best], scores, rtol=1e-4)


# ---- options


VIT = TrunkConfig("clip_vit", (2,), width=48, heads=3, patch=14, image_size=112)
OPTIONS = {
    "vit": replace(SMALL, trunk=VIT, prenorm=True, tie_embeddings=False),
    "torchvision": replace(
        SMALL,
        trunk=TrunkConfig("torchvision_resnet", (1, 1, 1, 1), image_size=256),
        unimodal_layers=2,
        multimodal_layers=2,
        learnable=True,
    ),
    "no-fusion": with_options(encoder_layers=0),
    "deep-prenorm": with_options(unimodal_layers=3, multimodal_layers=3, prenorm=True),
    "one-head": with_options(num_heads=1),
    "same-width": replace(SMALL, trunk=TrunkConfig("clip_resnet", (1, 1, 1, 1), width=4, image_size=64), d_model=128),
    "timm": replace(SMALL, trunk=TrunkConfig("timm", name="tf_efficientnet_lite0", image_size=64)),
    "quick-gelu": replace(SMALL, trunk=TrunkConfig("clip_vit", (1,), width=64, heads=2, quick_gelu=True)),
}


@pytest.mark.slow
@pytest.mark.parametrize("config", OPTIONS.values(), ids=OPTIONS.keys())
def test_model_options_export(config: ModelConfig, tmp_path: Path) -> None:
    """The export succeeds, so its parity check passes."""
    checkpoint.save(random_checkpoint(1, config), tmp_path / "ckpt.pt")
    manifest = export_checkpoint(Source.read(tmp_path / "ckpt.pt"), tmp_path / "model")
    assert Manifest.load(tmp_path / "model").to_dict() == manifest.to_dict()
    assert ModelConfig.from_dict(manifest.model).to_dict() == config.to_dict()
    edge = config.image_trunk.map_size
    assert manifest.graphs[IMAGE_ENCODER].outputs["similarity"].shape == ("B", edge, edge)


def test_calibration_of_the_checkpoint_enters_the_manifest() -> None:
    curve = {"slope": 0.7, "intercept": -0.2, "pairs": 360}
    trained = replace(random_checkpoint(1), training={"change_calibration": curve})
    assert recorded_calibration(trained) == ChangeCalibration(0.7, -0.2, 360)
    assert recorded_calibration(replace(trained, training={})) is None
    with pytest.raises(CheckpointError, match="calibration of the change score is damaged"):
        recorded_calibration(replace(trained, training={"change_calibration": {**curve, "slope": -1}}))


def test_vision_transformer_graph_equals_the_model(tmp_path: Path) -> None:
    """A fast test of one option: only the image encoder."""
    model = random_checkpoint(1, replace(SMALL, trunk=VIT)).build_model().requires_grad_(False)
    export_graph(model, IMAGE_ENCODER, tmp_path)
    session = onnxruntime.InferenceSession(tmp_path / "image_encoder.onnx", providers=["CPUExecutionProvider"])
    for pairs in (1, 3):
        images = example_images(pairs, 112)
        (found,) = session.run(["image_embedding"], {"images": images})
        expected = torch.nn.functional.normalize(model.encode_images(torch.from_numpy(images)).embedding)
        np.testing.assert_allclose(found, expected.numpy(), atol=1e-4)


# ---- replacing a folder


def test_existing_folder_is_refused(checkpoint_file: Path, folder: Path) -> None:
    (folder / "golden.npz").write_text("mine")
    with pytest.raises(ExportError, match=r"model exists: name another folder with -o, or replace it with --force"):
        export_checkpoint(Source.read(checkpoint_file), folder)
    assert (folder / "golden.npz").read_text() == "mine"


def test_force_replaces_only_model_folders(checkpoint_file: Path, tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "holiday.jpg").write_text("dear")
    with pytest.raises(ExportError, match="not a model folder"):
        export_checkpoint(Source.read(checkpoint_file), tmp_path / "photos", force=True)
    with pytest.raises(ExportError, match="is a file"):
        export_checkpoint(Source.read(checkpoint_file), tmp_path / "photos" / "holiday.jpg", force=True)
    assert leftovers(tmp_path) == ["photos"]
    assert leftovers(tmp_path / "photos") == ["holiday.jpg"]


@pytest.mark.parametrize(
    ("failure", "raised", "message"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), ExportError, "disk of .* is full"),
        (OSError(errno.EACCES, "Permission denied"), ExportError, "cannot write .*model: Permission denied"),
        (Stop("on purpose"), Stop, "on purpose"),
        (KeyboardInterrupt(), KeyboardInterrupt, None),
    ],
    ids=["disk full", "not allowed", "an error", "Ctrl-C"],
)
def test_failure_leaves_the_target_as_it_was(
    failure: BaseException,
    raised: type[BaseException],
    message: str | None,
    checkpoint_file: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    before = {path.name: path.read_bytes() for path in folder.iterdir()}

    def fail(*arguments: object) -> None:
        (partial,) = set(folder.parent.iterdir()) - {folder}
        assert (partial / "tokenizer.json").exists()
        raise failure

    monkeypatch.setattr(model_folder, "export_graph", fail)
    with pytest.raises(raised, match=message):
        export_checkpoint(Source.read(checkpoint_file), folder, force=True)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert leftovers(folder.parent) == ["model"]


def test_full_disk_leaves_nothing_behind(checkpoint_file: Path, tmp_path: Path) -> None:
    """Real write errors: files are limited to 300 kB."""
    import resource
    import signal

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (300_000, limits[1]))
    try:
        with pytest.raises(ExportError, match=r"cannot write .*model"):
            export_checkpoint(Source.read(checkpoint_file), tmp_path / "model")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert leftovers(tmp_path) == []


def test_unwritable_target_is_refused(checkpoint_file: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match=r"cannot write next to .*file/model"):
        export_checkpoint(Source.read(checkpoint_file), tmp_path / "file" / "model")


def test_folder_has_default_permissions(model_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    assert model_folder.stat().st_mode == (tmp_path / "new").stat().st_mode


def test_manifest_records_the_checkpoint(model_folder: Path, checkpoint_file: Path) -> None:
    manifest, source = Manifest.load(model_folder), checkpoint.load(checkpoint_file)
    assert manifest.checkpoint == {"sha256": sha256_file(checkpoint_file)}
    assert manifest.no_change_sentences == source.no_change_sentences
    assert manifest.vocab_size == len(source.vocabulary)
    assert set(manifest.files) == {"golden.npz", "tokenizer.json", *(f"{name}.onnx" for name in GRAPH_NAMES)}
    assert set(manifest.producers) >= {"rsicrc", "torch", "onnx"}
