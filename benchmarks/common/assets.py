"""Assets of the measurements: the model in every form, and pairs of generated scenes; made once and reused.

The module is also a program, because exporting a large model takes much memory:

    python -m common.assets FOLDER --size published --pairs 64 --export FOLDER/model --variants int8

With a finished model folder (--model) and no baseline that needs the checkpoint, it needs neither PyTorch nor the
exporter.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.gpu import is_gpu
from common.processes import say
from rsicrc.datasets.levir_cc import CaptionedPair, read_levir
from rsicrc.errors import RsicrcError
from rsicrc.inputs.prefetch import prepare_pair
from rsicrc.manifest import MANIFEST_FILE, Manifest
from rsicrc.text.vocabulary import END, SPECIAL_WORDS

if TYPE_CHECKING:
    from rsicrc_train.checkpoint import Checkpoint

SEED = 2024  # of the scenes, as in examples/README.md, and of the random weights
PUBLISHED_WORDS = 468
CHECKPOINT, FOLDER, PLAIN, FACTS = "checkpoint.pt", "model", "plain", "facts.json"
PAIRS, CALIBRATION = "pairs", "calibration"
SPLIT = "test"
_CALIBRATION_PAIRS = 200
# Where captions have a fixed length, END's logit is the product of these, far below the logits of all words, which are
# within ±6. Neither number is so large that it widens the range of an int8 tensor by much.
_CONSTANT, _END_WEIGHT = 8.0, -5.0
_BLOCK_SCALE = 0.2


@dataclass(frozen=True)
class Facts:
    """Facts of the model: its name, and the largest number of token ids in a caption, with START.

    Attributes:
        parameters: Number of weights in the checkpoint; 0 if it was not read.
        forced: True if captions have a fixed length, because END can never win.
    """

    name: str
    parameters: int
    forced: bool
    max_length: int


def folder_of(root: Path, size: str) -> Path:
    """Return the folder of a model's assets, named after the model and, for a file, its content."""
    if size == "published":
        return root / f"published-seed-{SEED}"
    with Path(size).open("rb") as file:
        return root / f"{Path(size).stem}-{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"


def variants(precisions: Sequence[str], device: str) -> list[str]:
    """Return the precisions besides fp32 that a model folder needs for the engine's `precisions` on a device."""
    if not is_gpu(device):
        return [name for name in ("fp16", "int8") if name in precisions]  # OpenVINO makes bf16 from the fp32 graphs
    # On a GPU, the decoder and the text encoder of int8 are in fp16.
    needed = {*precisions, *(("fp16",) if "int8" in precisions else ())}
    return [name for name in ("fp16", "bf16", "int8") if name in needed]


def read_facts(folder: Path) -> Facts:
    """Read the facts that `main` wrote."""
    return Facts(**json.loads((folder / FACTS).read_text(encoding="utf-8")))


def pair_sets(root: Path) -> list[int]:
    """Return the sizes of the sets of pairs so far; a larger set begins with the pairs of a smaller one."""
    return [int(path.name.rpartition("-")[2]) for path in root.glob(f"{PAIRS}-*")]


def read_pairs(work: Path, count: int) -> list[CaptionedPair]:
    """Return the first pairs of the scenes."""
    return read_levir(work.parent / f"{PAIRS}-{max(pair_sets(work.parent))}", SPLIT)[:count]


def read_images(pairs: list[CaptionedPair], model: Path) -> NDArray[np.uint8]:
    """Read pairs as input of the image encoder, uint8 [N, 2, size, size, 3]."""
    preprocessing = Manifest.load(model, verify=False).preprocessing
    return np.stack([prepare_pair((pair.before, pair.after), preprocessing) for pair in pairs])


def main() -> None:
    """Make the missing assets."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    add = parser.add_argument
    add("folder", type=Path)
    add("--size", required=True)
    add("--export", type=Path, help="model folder to export to, if it does not exist")
    add("--variants", nargs="*", default=[], help="precisions to export besides fp32")
    add("--model", type=Path, help="finished model folder")
    add("--checkpoint", action="store_true", help="write the checkpoint in any case")
    add("--pairs", type=int, required=True)
    add("--plain", action="store_true", help="export the plain ONNX files too")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if max(pair_sets(folder.parent), default=0) < arguments.pairs:
            make_pairs(folder.parent / f"{PAIRS}-{arguments.pairs}", arguments.pairs, SEED)
        if "int8" in arguments.variants:
            make_pairs(folder.parent / CALIBRATION, _CALIBRATION_PAIRS, SEED + 1)
        if arguments.checkpoint or arguments.plain or arguments.model is None:
            facts = make_model(folder, arguments.size, arguments.export, arguments.variants, plain=arguments.plain)
        else:
            max_length = Manifest.load(arguments.model, verify=False).max_len
            facts = Facts(arguments.model.name, 0, forced=False, max_length=max_length)
        (folder / FACTS).write_text(json.dumps(vars(facts)), encoding="utf-8")
    except RsicrcError as error:
        raise SystemExit(f"error: {error}") from error
    except ImportError as error:
        raise SystemExit(f"error: {error}: `pip install 'rsicrc[export]'`") from error


def make_pairs(folder: Path, count: int, seed: int) -> None:
    """Generate scenes that no model was trained on, in the layout of LEVIR-CC."""
    from rsicrc_train.synth.dataset import generate

    if not folder.is_dir():
        say(f"generating {count} pairs of scenes")
        with _new_folder(folder) as partial:
            generate(partial, count, seed, {SPLIT: 1.0})


def make_model(folder: Path, size: str, export: Path | None, variants: Sequence[str], *, plain: bool) -> Facts:
    """Make the checkpoint, the model folder and the plain ONNX files, and return the facts of the model."""
    from rsicrc_train import checkpoint

    source = folder / CHECKPOINT
    if not source.is_file():
        say("writing the checkpoint")
        # Without its no-change sentences, which only the engine scores for every caption.
        saved = random_checkpoint() if size == "published" else checkpoint.load(Path(size))
        checkpoint.save(replace(saved, no_change_sentences=(), progress={}), source)
    if export is not None and not (export / MANIFEST_FILE).is_file():
        make_folder(source, export, variants)
    if plain and not (folder / PLAIN).is_dir():
        from baselines import plain_onnx

        say("exporting the plain ONNX files")
        with _new_folder(folder / PLAIN) as partial:
            partial.mkdir()
            plain_onnx.export(source, partial)
    saved = checkpoint.load(source)
    tensors = {tensor.data_ptr(): tensor for tensor in saved.state_dict.values()}  # tied weights count once
    return Facts(
        name="published size, random weights" if size == "published" else Path(size).name,
        parameters=sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point()),
        forced=size == "published",
        max_length=saved.config.max_len,
    )


def make_folder(source: Path, target: Path, variants: Sequence[str]) -> None:
    """Export a checkpoint with `rsicrc-export`.

    A precision that cannot be exported is left out, with a message: random weights may lose too much in int8, or
    packages may be missing, and the other precisions can still be measured.
    """
    precisions = list(variants)
    while True:
        options = [word for name in precisions for word in ("--precision", name)]
        if "int8" in precisions:
            options += ["--calibration", str(source.parents[1] / CALIBRATION)]
        command = [sys.executable, "-c", "from rsicrc_export.cli import main; main()", str(source)]
        command += ["-o", str(target), "--force", *options]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as process:  # noqa: S603
            reason = ""
            for line in process.stderr or ():
                reason = line.strip() or reason
                say(line.rstrip())
        if not process.returncode:
            return
        if not precisions:
            raise SystemExit(reason)
        failed = next((name for name in precisions if name in reason), precisions[-1])
        say(f"skipped: {failed}: {reason}")
        precisions.remove(failed)


def random_checkpoint() -> Checkpoint:
    """Return a checkpoint of the published size with random weights, whose captions never end.

    The last normalization gives one channel the same value for every input. In the tied embedding table, that channel
    holds 0 for every word and a negative number for END, so END's logit is far below all others in any arithmetic.
    """
    import torch

    from rsicrc_train.checkpoint import Checkpoint
    from rsicrc_train.config import PRESETS
    from rsicrc_train.model import RSICRC

    torch.manual_seed(SEED)
    config = PRESETS["published"]
    model = RSICRC(config, PUBLISHED_WORDS)
    last: Any = model.decoder.multimodal[-1]
    with torch.no_grad():
        # Residual blocks that add little, as trained ones do: random ones amplify rounding until int8 fails.
        for name, weight in model.named_parameters():
            if name.endswith(".bn3.weight"):
                weight.mul_(_BLOCK_SCALE)
        last.feed_forward_norm.weight[0], last.feed_forward_norm.bias[0] = 0.0, _CONSTANT
        model.decoder.embedding.weight[:, 0] = 0.0
        model.decoder.embedding.weight[END, 0] = _END_WEIGHT
    words = tuple(f"word{number}" for number in range(PUBLISHED_WORDS - len(SPECIAL_WORDS)))
    return Checkpoint(config, (*SPECIAL_WORDS, *words), (), model.state_dict())


@contextmanager
def _new_folder(folder: Path) -> Iterator[Path]:
    """Let the block fill a temporary folder, and rename it to `folder` when the block has succeeded."""
    partial = folder.with_name(f".{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    yield partial
    partial.rename(folder)


if __name__ == "__main__":
    main()
