"""The manifest of a model folder (`manifest.json`): its contents, with the hash of every file.

Only files that the manifest declares are read. A folder with a missing or changed file is refused.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from rsicrc.cpu import available_cpus
from rsicrc.errors import ModelFolderError, ModelNotFoundError
from rsicrc.files import is_folder, replacing
from rsicrc.preprocessing import Preprocessing
from rsicrc.text.change_calibration import ChangeCalibration
from rsicrc.text.vocabulary import MOST_LENGTH, MOST_WORDS, SPECIAL_IDS
from rsicrc.untrusted.fields import file_name, flag, mapping, number, sequence, shown, text, whole
from rsicrc.untrusted.signatures import check_signatures
from rsicrc.untrusted.strict_json import parse_json, read_text

FORMAT = "rsicrc-model"
FORMAT_VERSION = 1
MANIFEST_FILE = "manifest.json"
TOKENIZER_FILE = "tokenizer.json"
GOLDEN_FILE = "golden.npz"
IMAGE_ENCODER, TEXT_ENCODER, DECODER, SCORER = "image_encoder", "text_encoder", "decoder", "scorer"
GRAPH_NAMES = (IMAGE_ENCODER, TEXT_ENCODER, DECODER, SCORER)
EXACT = "fp32"  # the precision of `Manifest.graphs`, which every folder has; other precisions are variants
FP16, BF16, INT8 = "fp16", "bf16", "int8"
INT8_FP16 = f"{INT8}-{FP16}"  # int8 on a GPU: the image encoder in int8, all other computation in fp16
ON_GPU = {EXACT: EXACT, FP16: FP16, BF16: BF16, INT8: INT8_FP16}  # precision → the variant that a GPU uses for it
CHANGE_THRESHOLD = 0.5
DTYPES = ("float32", "float16", "bfloat16", "int64", "uint8", "bool")
# Bounds of a manifest from a stranger, far above those of real models.
_MOST_FIELDS = 1000
_MOST_FILES, _MOST_VARIANTS, _MOST_TENSORS = 1000, 16, 400
_MOST_AXES, _MOST_SIZE, _LONGEST_DIMENSION = 8, 1 << 24, 20
_MOST_BEAMS, _MOST_PENALTY = 1024, 100
_MOST_SENTENCES, _LONGEST_SENTENCE = 1000, 1000
_MOST_BYTES = 1 << 50
_SHA256 = re.compile("[0-9a-f]{64}")


def sha256_file(path: Path) -> str:
    """Return the hexadecimal SHA-256 of a file, which is read in chunks."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a graph.

    Attributes:
        dtype: NumPy name, for example "float32".
        shape: Sizes of the dimensions; a name stands for a dimension that varies.
    """

    dtype: str
    shape: tuple[int | str, ...]

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> TensorSpec:
        """Read the output of `to_dict`."""
        dtype, shape = fields["dtype"], tuple(sequence(fields["shape"], "shape", _MOST_AXES))
        if dtype not in DTYPES:
            raise ValueError(f"dtype must be one of {', '.join(DTYPES)}, not {shown(dtype)}")
        return cls(dtype, tuple(_dimension(value) for value in shape))

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for JSON."""
        return {"dtype": self.dtype, "shape": list(self.shape)}


@dataclass(frozen=True)
class GraphSpec:
    """One graph: its file, and its inputs and outputs in order."""

    file: str
    inputs: Mapping[str, TensorSpec]
    outputs: Mapping[str, TensorSpec]

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> GraphSpec:
        """Read the output of `to_dict`."""
        inputs, outputs = (mapping(fields[name], name, _MOST_TENSORS) for name in ("inputs", "outputs"))
        return cls(
            text(fields["file"], "file"),
            {name: TensorSpec.from_dict(mapping(spec, name, _MOST_FIELDS)) for name, spec in inputs.items()},
            {name: TensorSpec.from_dict(mapping(spec, name, _MOST_FIELDS)) for name, spec in outputs.items()},
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for JSON."""
        return {
            "file": self.file,
            "inputs": {name: spec.to_dict() for name, spec in self.inputs.items()},
            "outputs": {name: spec.to_dict() for name, spec in self.outputs.items()},
        }


@dataclass(frozen=True)
class Variant:
    """The graphs in another precision.

    Attributes:
        graphs: Graph name → file, inputs, outputs; all graphs of the folder. A file may be shared with the exact
            graphs if the precision has no advantage for that graph.
        parity: Accuracy compared with the exact graphs: the compared quantities and the data of the comparison.
    """

    graphs: Mapping[str, GraphSpec]
    parity: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Variant:
        """Read the output of `to_dict`."""
        return cls(_graphs(fields["graphs"]), mapping(fields["parity"], "parity", _MOST_FIELDS))

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for JSON."""
        return {"graphs": {name: graph.to_dict() for name, graph in self.graphs.items()}, "parity": dict(self.parity)}


@dataclass(frozen=True)
class FileRecord:
    """SHA-256 and size in bytes of a file in the folder."""

    sha256: str
    bytes: int

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> FileRecord:
        """Read the output of `to_dict`."""
        digest = text(fields["sha256"], "sha256")
        if not _SHA256.fullmatch(digest):
            raise ValueError(f"sha256 must be 64 hexadecimal digits, not {shown(digest)}")
        return cls(digest, whole(fields["bytes"], "bytes", 0, _MOST_BYTES))

    @classmethod
    def of(cls, path: Path) -> FileRecord:
        """Compute the record of a file."""
        return cls(sha256_file(path), path.stat().st_size)

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for JSON."""
        return {"sha256": self.sha256, "bytes": self.bytes}


@dataclass(frozen=True)
class SearchDefaults:
    """Beam search settings that apply if a caller sets none."""

    beams: int = 3
    length_penalty: float = 1.0
    early_stopping: bool = True

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> SearchDefaults:
        """Read the output of `to_dict`."""
        return cls(
            whole(fields["beams"], "search.beams", 1, _MOST_BEAMS),
            number(fields["length_penalty"], "search.length_penalty", -_MOST_PENALTY, _MOST_PENALTY),
            flag(fields["early_stopping"], "search.early_stopping"),
        )

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for JSON."""
        return {"beams": self.beams, "length_penalty": self.length_penalty, "early_stopping": self.early_stopping}


@dataclass(frozen=True)
class Manifest:
    """The content of `manifest.json`.

    Attributes:
        model: The model's configuration, from the checkpoint.
        preprocessing: Preprocessing of an image before `image_encoder`.
        max_len: Maximum length of a sequence of ids, including START and END.
        vocab_size: Number of ids.
        no_change_sentences: Sentences of the training data that mean "nothing changed".
        search: Default settings of the beam search.
        change_threshold: Smallest change score of a pair that is decided to be changed, without a calibration.
        calibration: Calibration of the change score, which then decides in place of the threshold; None without.
        precision: Number format of the graphs, for example "fp32".
        graphs: Graph name → file, inputs, outputs.
        variants: Precision → the same graphs in that precision, and their accuracy.
        files: File name → hash and size, for every file except the manifest.
        checkpoint: Identity of the checkpoint that was exported ("sha256").
        producers: Package → version, of the packages that made the folder.
        parity: Differences between the graphs and the PyTorch model.
    """

    model: Mapping[str, Any]
    preprocessing: Preprocessing
    max_len: int
    vocab_size: int
    no_change_sentences: tuple[str, ...]
    graphs: Mapping[str, GraphSpec]
    files: Mapping[str, FileRecord]
    search: SearchDefaults = field(default_factory=SearchDefaults)
    change_threshold: float = CHANGE_THRESHOLD
    calibration: ChangeCalibration | None = None
    precision: str = EXACT
    variants: Mapping[str, Variant] = field(default_factory=dict)
    checkpoint: Mapping[str, Any] = field(default_factory=dict)
    producers: Mapping[str, str] = field(default_factory=dict)
    parity: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path | str, verify: bool = True) -> Manifest:
        """Read the manifest of a folder and check the files of the folder against it.

        Args:
            folder: The model folder.
            verify: Hash every declared file. If False, only presence and sizes are checked.

        Raises:
            ModelNotFoundError: The folder does not exist.
            ModelFolderError: The manifest is missing or of a format that this version cannot read, or a file is missing
                or changed.
        """
        folder = Path(folder)
        if not is_folder(folder):
            raise ModelNotFoundError(
                f"{folder}: no such model folder. Make one with `rsicrc-export ckpt.pt -o {folder}`, or name another"
            )
        manifest = cls.from_json(_read(folder / MANIFEST_FILE), folder / MANIFEST_FILE)
        with ThreadPoolExecutor(available_cpus()) as threads:
            for _ in threads.map(lambda name: _check_file(folder / name, manifest.files[name], verify), manifest.files):
                pass
        return manifest

    @classmethod
    def from_json(cls, document: str, path: Path) -> Manifest:
        """Parse the text of a manifest; `path` is used in messages.

        Raises:
            ModelFolderError: The text is not a manifest, has another format version, or has missing or wrong fields.
        """
        try:
            fields = parse_json(document)
        except ValueError as error:
            raise ModelFolderError(f"{path}: not valid JSON ({error}): export the model again") from error
        if not isinstance(fields, dict) or fields.get("format") != FORMAT:
            raise ModelFolderError(f"{path}: not the manifest of an rsicrc model folder (no 'format': '{FORMAT}')")
        version = fields.get("format_version")
        if not isinstance(version, int) or isinstance(version, bool) or version < 1:
            raise ModelFolderError(f"{path}: format_version is {shown(version)}, not a number: export the model again")
        if version > FORMAT_VERSION:
            raise ModelFolderError(
                f"{path}: made by a newer rsicrc (format {shown(version)}; this one reads {FORMAT_VERSION}): "
                "upgrade with `pip install -U rsicrc`"
            )
        try:
            return cls._from_fields(fields)
        except KeyError as error:
            raise ModelFolderError(f"{path}: field {error} is missing: export the model again") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise ModelFolderError(f"{path}: a field is wrong ({error}): export the model again") from error

    @classmethod
    def _from_fields(cls, fields: Mapping[str, Any]) -> Manifest:
        if fields["special_ids"] != SPECIAL_IDS:
            raise ValueError(f"special_ids must be {SPECIAL_IDS}")
        manifest = cls(
            model=mapping(fields["model"], "model", _MOST_FIELDS),
            preprocessing=Preprocessing.from_dict(mapping(fields["preprocessing"], "preprocessing", _MOST_FIELDS)),
            max_len=whole(fields["max_len"], "max_len", 3, MOST_LENGTH),
            vocab_size=whole(fields["vocab_size"], "vocab_size", len(SPECIAL_IDS), MOST_WORDS),
            no_change_sentences=_sentences(fields["no_change_sentences"]),
            graphs=_graphs(fields["graphs"]),
            files=_files(fields["files"]),
            search=SearchDefaults.from_dict(mapping(fields["search"], "search", _MOST_FIELDS)),
            # Older folders have no threshold and no calibration.
            change_threshold=_threshold(mapping(fields.get("change", {}), "change", _MOST_FIELDS)),
            calibration=_calibration(mapping(fields.get("change", {}), "change", _MOST_FIELDS)),
            precision=text(fields["precision"], "precision"),
            # Older folders have no variants.
            variants={
                name: Variant.from_dict(mapping(each, name, _MOST_FIELDS))
                for name, each in mapping(fields.get("variants", {}), "variants", _MOST_VARIANTS).items()
            },
            checkpoint=mapping(fields["checkpoint"], "checkpoint", _MOST_FIELDS),
            producers={
                name: text(version, f"producers.{name}")
                for name, version in mapping(fields["producers"], "producers", _MOST_FIELDS).items()
            },
            parity=mapping(fields["parity"], "parity", _MOST_FIELDS),
        )
        if 2 * manifest.search.beams > manifest.vocab_size:
            raise ValueError(f"search.beams must be at most vocab_size / 2, not {manifest.search.beams}")
        if not isinstance(manifest.checkpoint.get("sha256", ""), str):
            raise ValueError("checkpoint.sha256 must be a text")
        needed = [TOKENIZER_FILE]
        for precision in manifest.precisions:
            graphs = manifest.at(precision).graphs
            missing = [name for name in GRAPH_NAMES if name not in graphs]
            if missing:
                raise ValueError(f"graphs not declared: {', '.join(missing)}")
            try:
                check_signatures(graphs, manifest.preprocessing.size)
            except ValueError as error:
                raise ValueError(f"{precision} graphs: {error}") from error
            needed += [graph.file for graph in graphs.values()]
        undeclared = [name for name in needed if name not in manifest.files]
        if undeclared:
            raise ValueError(f"files without a hash: {', '.join(undeclared)}")
        return manifest

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions for which the folder has graphs."""
        return (self.precision, *self.variants)

    def at(self, precision: str) -> Manifest:
        """Return a manifest with only the graphs of one of the `precisions`."""
        if precision == self.precision:
            return self
        return replace(self, precision=precision, graphs=self.variants[precision].graphs, variants={})

    def to_dict(self) -> dict[str, Any]:
        """Return plain containers for JSON."""
        return {
            "format": FORMAT,
            "format_version": FORMAT_VERSION,
            "model": dict(self.model),
            "preprocessing": self.preprocessing.to_dict(),
            "special_ids": dict(SPECIAL_IDS),
            "max_len": self.max_len,
            "vocab_size": self.vocab_size,
            "no_change_sentences": list(self.no_change_sentences),
            "search": self.search.to_dict(),
            "change": {
                "threshold": self.change_threshold,
                **({} if self.calibration is None else {"calibration": self.calibration.to_dict()}),
            },
            "precision": self.precision,
            "graphs": {name: graph.to_dict() for name, graph in self.graphs.items()},
            "variants": {name: variant.to_dict() for name, variant in self.variants.items()},
            "files": {name: record.to_dict() for name, record in self.files.items()},
            "checkpoint": dict(self.checkpoint),
            "producers": dict(self.producers),
            "parity": dict(self.parity),
        }

    def write(self, folder: Path) -> None:
        """Write `manifest.json` into a folder, atomically."""
        document = json.dumps(self.to_dict(), indent=2, ensure_ascii=False) + "\n"
        with replacing(folder / MANIFEST_FILE) as temporary:
            temporary.write_text(document, encoding="utf-8")


def _graphs(fields: Any) -> dict[str, GraphSpec]:
    graphs = {}
    for name, graph in mapping(fields, "graphs", _MOST_FIELDS).items():
        try:
            graphs[name] = GraphSpec.from_dict(mapping(graph, name, _MOST_FIELDS))
        except ValueError as error:
            raise ValueError(f"graphs.{name}: {error}") from error
    return graphs


def _files(fields: Any) -> dict[str, FileRecord]:
    return {
        file_name(name): FileRecord.from_dict(mapping(record, name, _MOST_FIELDS))
        for name, record in mapping(fields, "files", _MOST_FILES).items()
    }


def _sentences(values: Any) -> tuple[str, ...]:
    name = "no_change_sentences"
    sentences = tuple(text(value, name, _LONGEST_SENTENCE) for value in sequence(values, name, _MOST_SENTENCES))
    if not all(sentence.strip() for sentence in sentences):
        raise ValueError(f"{name} has an empty sentence")
    return sentences


def _threshold(fields: Mapping[str, Any]) -> float:
    return number(fields.get("threshold", CHANGE_THRESHOLD), "change.threshold", 0, 1)


def _calibration(fields: Mapping[str, Any]) -> ChangeCalibration | None:
    if (curve := fields.get("calibration")) is None:
        return None
    return ChangeCalibration.from_dict(mapping(curve, "change.calibration", _MOST_FIELDS))


def _read(path: Path) -> str:
    try:
        return read_text(path)
    except FileNotFoundError as error:
        raise ModelFolderError(f"{path}: missing, so {path.parent} is not a model folder") from error
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"{path}: cannot be read ({error})") from error


def _check_file(path: Path, record: FileRecord, verify: bool) -> None:
    try:
        _compare_file(path, record, verify)
    except OSError as error:
        raise ModelFolderError(f"{path}: cannot be read ({error.strerror})") from error


def _compare_file(path: Path, record: FileRecord, verify: bool) -> None:
    if not path.is_file():
        raise ModelFolderError(f"{path}: missing, though the manifest declares it: copy or export the folder again")
    size = path.stat().st_size
    if size != record.bytes:
        raise ModelFolderError(
            f"{path}: {size} bytes where the manifest says {record.bytes}: copy or export the folder again"
        )
    if verify and sha256_file(path) != record.sha256:
        raise ModelFolderError(f"{path}: changed since the export (SHA-256 differs): copy or export the folder again")


def _dimension(value: Any) -> int | str:
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"a dimension must be a number or a name, not {shown(value)}")
    if isinstance(value, int):
        return whole(value, "a dimension", 1, _MOST_SIZE)
    return text(value, "a dimension", _LONGEST_DIMENSION)
