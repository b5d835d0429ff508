from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from rsicrc.errors import ModelFolderError, ModelNotFoundError, RsicrcError
from rsicrc.manifest import GRAPH_NAMES, FileRecord, GraphSpec, Manifest, SearchDefaults, TensorSpec, sha256_file
from rsicrc.preprocessing import Preprocessing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a valid manifest; the files are not real graphs."""
    names = ["tokenizer.json", "golden.npz", *(f"{name}.onnx" for name in GRAPH_NAMES)]
    for name in names:
        (tmp_path / name).write_bytes(name.encode() * 100)
    spec = {"x": TensorSpec("uint8", ("B", 2, 96, 96, 3))}
    Manifest(
        model={"d_model": 64},
        preprocessing=Preprocessing(96),
        max_len=12,
        vocab_size=40,
        no_change_sentences=("nothing has changed", "aucun changement – déjà vu"),
        graphs={name: GraphSpec(f"{name}.onnx", spec, spec) for name in GRAPH_NAMES},
        files={name: FileRecord.of(tmp_path / name) for name in names},
        search=SearchDefaults(beams=5, length_penalty=0.6, early_stopping=False),
        checkpoint={"sha256": "00"},
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
    assert manifest.graphs["decoder"].inputs["x"].shape == ("B", 2, 96, 96, 3)
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


@pytest.mark.parametrize("version", [None, "1", 0, True, 1.5])
def test_invalid_format_version_is_refused(folder: Path, version: object) -> None:
    edit(folder, format_version=version)
    with pytest.raises(ModelFolderError, match="format_version is"):
        Manifest.load(folder)


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
    assert set(document) == {"format", "format_version", "variants", "change", *REQUIRED}
    del document[name]
    (folder / "manifest.json").write_text(json.dumps(document))
    with pytest.raises(ModelFolderError, match=f"field '{name}' is missing"):
        Manifest.load(folder)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"special_ids": {"pad": 3, "start": 1, "unk": 2, "end": 0}}, "special_ids must be"),
        ({"max_len": 2}, "max_len must be at least 3"),
        ({"max_len": "many"}, "a field is wrong"),
        ({"files": []}, "a field is wrong"),
        ({"graphs": {"decoder": {}}}, "field 'file' is missing"),
        ({"graphs": {}}, "graphs not declared: image_encoder"),
        ({"files": {}}, "files without a hash: tokenizer.json"),
        ({"search": {"beams": 0, "length_penalty": 1.0, "early_stopping": True}}, "out of range"),
    ],
)
def test_wrong_fields_are_refused(folder: Path, fields: dict[str, Any], message: str) -> None:
    edit(folder, **fields)
    with pytest.raises(ModelFolderError, match=message):
        Manifest.load(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "..", "sub/file", "C:\\file", "..\\file", ""])
def test_files_stay_inside_the_folder(folder: Path, name: str) -> None:
    manifest = Manifest.load(folder)
    replace(manifest, files={**manifest.files, name: FileRecord("0", 0)}).write(folder)
    with pytest.raises(ModelFolderError, match="is not a plain file name"):
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
    for wrong in (1.5, -0.1, float("nan"), "high", None):
        document["change"] = {"threshold": wrong}
        with pytest.raises(ModelFolderError, match="a field is wrong"):
            Manifest.from_json(json.dumps(document), path)
