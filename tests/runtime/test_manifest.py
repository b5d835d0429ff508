from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rsicrc.errors import ModelFolderError, ModelNotFoundError, RsicrcError
from rsicrc.manifest import GRAPH_NAMES, FileRecord, Manifest, SearchDefaults, sha256_file
from rsicrc.preprocessing import Preprocessing
from tests.runtime.signatures import declared_graphs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a valid manifest; the files are not real graphs."""
    names = ["tokenizer.json", "golden.npz", *(f"{name}.onnx" for name in GRAPH_NAMES)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode() * 100)
    Manifest(
        model={"d_model": 64},
        preprocessing=Preprocessing(96),
        max_len=12,
        vocab_size=40,
        no_change_sentences=("nothing has changed", "aucun changement – déjà vu"),
        graphs=declared_graphs(96),
        files={name: FileRecord.of(tmp_path / name) for name in names},
        search=SearchDefaults(beams=5, length_penalty=0.6, early_stopping=False),
        checkpoint={"sha256": "0" * 64},
        producers={"rsicrc": "0.1"},
        parity={"decoder": {"largest": 1e-6}},
    ).write(tmp_path)
    return tmp_path


def edit(folder: Path, **fields: Any) -> None:
    document = json.loads((folder / "manifest.json").read_text())
    (folder / "manifest.json").write_text(json.dumps({**document, **fields}))


def test_manifest_round_trip(folder: Path) -> None:
    manifest = Manifest.load(folder)
    assert manifest.no_change_sentences[1] == "aucun changement – déjà vu"
    assert manifest.search == SearchDefaults(5, 0.6, False)
    assert manifest.graphs["decoder"].inputs["self_keys_1"].shape == ("B", 2, "P", 4)
    text = (folder / "manifest.json").read_text()
    manifest.write(folder)
    assert (folder / "manifest.json").read_text() == text
    assert sorted(path.name for path in folder.iterdir() if path.suffix == ".tmp") == []


def test_sha256_of_a_file_of_several_chunks(tmp_path: Path) -> None:
    (tmp_path / "zeros").write_bytes(bytes(3_000_000))
    # From `head -c 3000000 /dev/zero | sha256sum`.
    assert sha256_file(tmp_path / "zeros") == "35bce4eae54ec8e6cc2868baa8d157914d6ae2858811b4cc0c078c94460fa26f"


def test_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelNotFoundError, match=r"nowhere: no such model folder.*rsicrc-export") as caught:
        Manifest.load(tmp_path / "nowhere")
    assert isinstance(caught.value, FileNotFoundError)
    assert isinstance(caught.value, RsicrcError)


def test_folder_without_a_manifest_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelFolderError, match=r"manifest\.json: missing, so .* is not a model folder"):
        Manifest.load(tmp_path)


def test_changed_byte_is_found(folder: Path) -> None:
    path = folder / "decoder.onnx"
    content = bytearray(path.read_bytes())
    content[700] ^= 1
    path.write_bytes(content)
    with pytest.raises(ModelFolderError, match=r"decoder\.onnx: changed since the export") as caught:
        Manifest.load(folder)
    assert isinstance(caught.value, ValueError)
    Manifest.load(folder, verify=False)


def test_truncated_file_is_found_without_hashing(folder: Path) -> None:
    path = folder / "golden.npz"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(ModelFolderError, match=r"golden\.npz: 999 bytes where the manifest says 1000"):
        Manifest.load(folder, verify=False)


@pytest.mark.parametrize("verify", [True, False])
def test_missing_file_is_found(folder: Path, verify: bool) -> None:
    (folder / "scorer.onnx").unlink()
    with pytest.raises(ModelFolderError, match=r"scorer\.onnx: missing, though the manifest declares it"):
        Manifest.load(folder, verify)


def test_newer_format_version_is_refused(folder: Path) -> None:
    # Other fields of a newer manifest may have any format.
    (folder / "manifest.json").write_text(json.dumps({"format": "rsicrc-model", "format_version": 2, "graphs": []}))
    with pytest.raises(ModelFolderError, match=r"newer rsicrc \(format 2; this one reads 1\).*pip install -U rsicrc"):
        Manifest.load(folder)


@pytest.mark.parametrize("version", [None, "1", 0, True, 1.5, "x" * 5000, [0] * 5000])
def test_invalid_format_version_is_refused(folder: Path, version: object) -> None:
    edit(folder, format_version=version)
    with pytest.raises(ModelFolderError, match="format_version is") as caught:
        Manifest.load(folder)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not valid JSON"),
        ("{", "not valid JSON"),
        ("[]", "not the manifest"),
        ('{"format": "else"}', "not the manifest"),
    ],
)
def test_other_documents_are_refused(folder: Path, content: str, message: str) -> None:
    (folder / "manifest.json").write_text(content)
    with pytest.raises(ModelFolderError, match=message):
        Manifest.load(folder)


def test_binary_manifest_is_refused(folder: Path) -> None:
    (folder / "manifest.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ModelFolderError, match="cannot be read"):
        Manifest.load(folder)


REQUIRED = (
    *("model", "preprocessing", "special_ids", "max_len", "vocab_size", "no_change_sentences", "search", "precision"),
    *("graphs", "files", "checkpoint", "producers", "parity"),
)


@pytest.mark.parametrize("name", REQUIRED)
def test_every_field_is_required_and_checked(folder: Path, name: str) -> None:
    document = json.loads((folder / "manifest.json").read_text())
    assert set(document) == {"format", "format_version", "variants", "change", "pixel_size", "image_side", *REQUIRED}
    del document[name]
    (folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(ModelFolderError, match=f"field '{name}' is missing"):
        Manifest.load(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"special_ids": {"pad": 3, "start": 1, "unk": 2, "end": 0}}, "special_ids must be"),
        ({"max_len": 2}, "max_len must be a whole number from 3 to 4096, not 2"),
        ({"max_len": "many"}, "a field is wrong"),
        ({"files": []}, "a field is wrong"),
        ({"graphs": {"decoder": {"inputs": {}, "outputs": {}}}}, "field 'file' is missing"),
        ({"graphs": {"decoder": {"inputs": [["a"]], "outputs": {}}}}, "graphs.decoder: inputs must be a mapping"),
        ({"graphs": {}}, "graphs not declared: image_encoder"),
        ({"files": {}}, "files without a hash: tokenizer.json"),
        ({"search": {"beams": 0, "length_penalty": 1.0, "early_stopping": True}}, "search.beams must be"),
        ({"search": {"beams": 21, "length_penalty": 1.0, "early_stopping": True}}, "at most vocab_size / 2, not 21"),
        ({"search": {"beams": 3, "length_penalty": 1e9, "early_stopping": True}}, "search.length_penalty must be"),
        ({"search": {"beams": 3, "length_penalty": 1.0, "early_stopping": "no"}}, "must be true or false"),
        ({"max_len": 24.9}, "max_len must be a whole number"),
        ({"max_len": "24"}, "max_len must be a whole number"),
        ({"max_len": 10**18}, "max_len must be a whole number from 3 to 4096"),
        ({"vocab_size": True}, "vocab_size must be a whole number"),
        ({"no_change_sentences": "nothing has changed"}, "no_change_sentences must be a list, not 'nothing"),
        ({"no_change_sentences": ["", " "]}, "no_change_sentences has an empty sentence"),
        ({"no_change_sentences": [1]}, "no_change_sentences must be a text, not 1"),
        ({"no_change_sentences": ["x"] * 2000}, "more than 1000 entries"),
        ({"no_change_sentences": ["a\x1b[2J"]}, "control character"),
        ({"preprocessing": {"size": 10**6, "mean": [0, 0, 0], "std": [1, 1, 1]}}, "size must be"),
        ({"preprocessing": {"size": 96, "mean": [0, 0], "std": [1, 1, 1]}}, "mean must be three numbers"),
        ({"preprocessing": {"size": 96, "mean": [0, 0, 0], "std": [1, 0, 1]}}, "std must be from"),
        ({"preprocessing": {"size": 48, "mean": [0, 0, 0], "std": [1, 1, 1]}}, r"'images' is uint8 \[B, 2, 96"),
        ({"preprocessing": 3}, "preprocessing must be a mapping"),
        ({"checkpoint": {"sha256": 7}}, "checkpoint.sha256 must be a text"),
        ({"producers": {"rsicrc": []}}, "producers.rsicrc must be a text"),
        ({"special_ids": 5}, "special_ids must be"),
        ({"model": 3}, "model must be a mapping"),
        ({"variants": {"fp16": 5}}, "fp16 must be a mapping"),
    ],
)
def test_wrong_fields_are_refused(folder: Path, fields: dict[str, Any], message: str) -> None:
    edit(folder, **fields)
    with pytest.raises(ModelFolderError, match=message):
        Manifest.load(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", "sub/file", "C:\\file", "..\\file", ""])
def test_files_stay_inside_the_folder(folder: Path, name: str) -> None:
    manifest = Manifest.load(folder)
    replace(manifest, files={**manifest.files, name: FileRecord("0" * 64, 0)}).write(folder)
    with pytest.raises(ModelFolderError, match="is not a plain file name"):
        Manifest.load(folder)


@pytest.mark.parametrize("name", ["a\0b", "a" * 5000, "a\x1b[2J", "a\nb", "\u202eab"])
def test_file_names_that_cannot_be_shown_are_refused(folder: Path, name: str) -> None:
    manifest = Manifest.load(folder)
    replace(manifest, files={**manifest.files, name: FileRecord("0" * 64, 0)}).write(folder)
    with pytest.raises(ModelFolderError, match="a name in files") as caught:
        Manifest.load(folder)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("decoder", "inputs", "tokens", "dtype"), "int12", "graphs.decoder: dtype must be one of .*, not 'int12'"),
        (("decoder", "inputs", "tokens", "dtype"), ["int64"], "graphs.decoder: dtype must be one of"),
        (("decoder", "inputs", "tokens", "shape"), ["Q", "K"], r"'tokens' is int64 \[Q, K\] where int64 \[B, K\]"),
        (("decoder", "inputs", "tokens", "shape"), ["B"] * 100, "more than 8 entries"),
        (("decoder", "inputs", "tokens", "shape"), ["B", True], "a dimension must be"),
        (("decoder", "inputs", "self_keys_0", "shape"), ["B", 2, "P", 10**15], "a dimension must be"),
        (("decoder", "inputs", "self_keys_1", "shape"), ["B", 2, "P", 10**6], "'self_keys_1' is float32"),
        (("decoder", "outputs", "next_done", "dtype"), "int64", "'next_done' is int64"),
        (("decoder", "outputs", "next_self_keys_0", "dtype"), "float16", "'next_self_keys_0' is float16"),
        (("image_encoder", "outputs", "image_embedding", "shape"), ["B", -5], "a dimension must be"),
        (("image_encoder", "outputs", "image_embedding", "shape"), ["B"], "the width must be from 1"),
        (("image_encoder", "outputs", "image_embedding", "shape"), ["B", 7], r"'text_embedding' is .* \[B, 8\] where"),
        (("image_encoder", "outputs", "image_embedding", "shape"), ["B", 10**6], "the width must be from 1"),
        (("image_encoder", "outputs", "image_embedding", "dtype"), "bool", "'image_embedding' is bool"),
        (("image_encoder", "outputs", "extra"), {"dtype": "float32", "shape": []}, "outputs: there is no 'extra'"),
        (("image_encoder", "inputs"), {}, "inputs: 'images' is not declared"),
        (("scorer", "outputs", "log_probs", "shape"), ["B", "N", "n - x"], "'log_probs' is"),
        (("scorer", "file"), "golden.zip", "files without a hash: golden.zip"),
        (("scorer", "file"), 7, "graphs.scorer: file must be a text"),
    ],
)
def test_wrong_declarations_of_graphs_are_refused(
    folder: Path, path: tuple[str, ...], value: object, message: str
) -> None:
    document = json.loads((folder / "manifest.json").read_text())
    place = document["graphs"]
    for name in path[:-1]:
        place = place[name]
    place[path[-1]] = value
    (folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(ModelFolderError, match=message):
        Manifest.load(folder)


@pytest.mark.parametrize("record", [{"sha256": "0", "bytes": 1}, {"sha256": "0" * 64, "bytes": -1}, 7, {"bytes": 1}])
def test_wrong_file_records_are_refused(folder: Path, record: object) -> None:
    document = json.loads((folder / "manifest.json").read_text())
    edit(folder, files={**document["files"], "golden.npz": record})
    with pytest.raises(ModelFolderError, match=r"manifest\.json: (a field is wrong|field 'sha256' is missing)"):
        Manifest.load(folder)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"max_len": 12', '"max_len": NaN', "NaN is not a JSON number"),
        ('"max_len": 12', '"max_len": Infinity', "Infinity is not a JSON number"),
        ('"max_len": 12', '"max_len": 1e999', "1e999 is too large"),
        ('"max_len": 12', f'"max_len": {"9" * 5000}', "too large for a whole number"),
        ('"max_len": 12', '"max_len": 9223372036854775808', "too large for a whole number"),
        ('"max_len": 12', '"max_len": 12, "max_len": 13', "the key 'max_len' occurs twice"),
        ('"d_model": 64', f'"d_model": {"[" * 100_000}{"]" * 100_000}', "nested more than 32 levels"),
        ('"d_model": 64', f'"d_model": {"[" * 900}{"]" * 900}', "nested more than 32 levels"),
        ('"d_model": 64', '"d_model": "\\ud800"', "not valid Unicode"),
    ],
)
def test_json_outside_its_limits_is_refused(folder: Path, old: str, new: str, message: str) -> None:
    document = (folder / "manifest.json").read_text()
    assert old in document
    (folder / "manifest.json").write_text(document.replace(old, new))
    with pytest.raises(ModelFolderError, match=message) as caught:
        Manifest.load(folder)
    assert len(str(caught.value)) < 500


def test_manifest_that_is_no_regular_file_is_refused(folder: Path) -> None:
    path = folder / "manifest.json"
    ways: tuple[Callable[[], None], ...] = (
        path.mkdir,
        lambda: os.mkfifo(path),
        lambda: path.symlink_to("/dev/zero"),
    )
    for make in ways:
        path.rmdir() if path.is_dir() else path.unlink()
        make()
        with pytest.raises(ModelFolderError, match="cannot be read"):
            Manifest.load(folder)


def test_declared_file_that_is_no_regular_file_is_refused(folder: Path) -> None:
    (folder / "golden.npz").unlink()
    os.mkfifo(folder / "golden.npz")
    with pytest.raises(ModelFolderError, match=r"golden\.npz: missing"):
        Manifest.load(folder)


def test_failure_of_the_disk_is_a_model_folder_error(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> str:
        raise OSError(5, "Input/output error", str(path))

    monkeypatch.setattr("rsicrc.manifest.sha256_file", fail)
    with pytest.raises(ModelFolderError, match=r"cannot be read \(Input/output error\)"):
        Manifest.load(folder)


def test_failed_write_keeps_the_old_manifest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = Manifest.load(folder)
    whole = Path.write_text

    def full_disk(path: Path, text: str, **options: Any) -> int:
        whole(path, text[: len(text) // 2], **options)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full_disk)
    with pytest.raises(OSError, match="No space left"):
        replace(manifest, precision="int8").write(folder)
    monkeypatch.undo()
    assert Manifest.load(folder) == manifest
    assert not list(folder.glob("*.tmp"))


def test_change_threshold_is_read_and_checked(folder: Path) -> None:
    document = json.loads((folder / "manifest.json").read_text())
    path = folder / "manifest.json"
    del document["change"]
    assert Manifest.from_json(json.dumps(document), path).change_threshold == 0.5
    document["change"] = {"threshold": 0.25}
    assert Manifest.from_json(json.dumps(document), path).change_threshold == 0.25
    for wrong in (1.5, -0.1, True, "high", None):
        document["change"] = {"threshold": wrong}
        with pytest.raises(ModelFolderError, match="a field is wrong"):
            Manifest.from_json(json.dumps(document), path)


def test_scale_of_the_training_images_is_optional(folder: Path) -> None:
    assert (Manifest.load(folder).pixel_size, Manifest.load(folder).image_side) == (None, None)
    edit(folder, pixel_size=0.5, image_side=256)
    loaded = Manifest.load(folder)
    assert (loaded.pixel_size, loaded.image_side) == (0.5, 256)
    assert (loaded.to_dict()["pixel_size"], loaded.to_dict()["image_side"]) == (0.5, 256)
    document = json.loads((folder / "manifest.json").read_text())
    del document["pixel_size"], document["image_side"]  # a folder of an older version
    (folder / "manifest.json").write_text(json.dumps(document))
    assert Manifest.load(folder).pixel_size is None


@pytest.mark.parametrize("fields", [{"pixel_size": 0}, {"pixel_size": "0.5"}, {"image_side": 1}, {"image_side": 256.5}])
def test_impossible_scale_is_refused(folder: Path, fields: dict[str, object]) -> None:
    edit(folder, **fields)
    with pytest.raises(ModelFolderError, match=next(iter(fields))):
        Manifest.load(folder)
