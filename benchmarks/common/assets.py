"""What is measured on: the model in all its forms, and pairs of generated scenes; made once, kept, and used again.

Run as a program, in a process of its own, because exporting a large model takes much memory:

    python -m common.material FOLDER --size published --pairs 64 --export FOLDER/model --variants int8

With a model folder from elsewhere (--model) and no contestant that needs the checkpoint, neither PyTorch nor the
exporter is asked for.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from common import card
from rsicrc.datasets.levir_cc import CaptionedPair, read_levir
from rsicrc.errors import RsicrcError
from rsicrc.inputs.prefetch import prepare_pair
from rsicrc.manifest import MANIFEST_FILE, Manifest
from rsicrc.text.vocabulary import END, SPECIAL_WORDS

if TYPE_CHECKING:
    from rsicrc_train.checkpoint import Checkpoint

SEED = 2024  # of the scenes, as in examples/README.md, and of random weights
PUBLISHED_WORDS = 468
CHECKPOINT, FOLDER, PLAIN, FACTS = "checkpoint.pt", "model", "plain", "facts.json"
PAIRS, CALIBRATION = "pairs", "calibration"
SPLIT = "test"
_CALIBRATING = 200  # pairs
# END's logit where captions are forced is the product, far below the words', which are within ±6. Neither number is so
# large that it would widen the range of an int8 tensor by much.
_CONSTANT, _AGAINST_END = 8.0, -5.0
_BLOCKS = 0.2


@dataclass(frozen=True)
class Facts:
    """What is known of the model once it is there.

    Attributes:
        name: for tables.
        parameters: numbers in the checkpoint; 0 where it was not looked at.
        forced: captions have `steps` words, because END can never win.
        max_length: longest sequence of ids, START included.
    """

    name: str
    parameters: int
    forced: bool
    max_length: int


def place(root: Path, size: str) -> Path:
    """The folder of a model's material: by its name, and by its content where it is a file."""
    if size == "published":
        return root / f"published-seed-{SEED}"
    with Path(size).open("rb") as file:
        return root / f"{Path(size).stem}-{hashlib.file_digest(file, 'sha256').hexdigest()[:12]}"


def variants(precisions: Sequence[str], device: str) -> list[str]:
    """The precisions beside float32 that a folder needs so that the engine has `precisions` on a device."""
    if not card.is_card(device):
        return [name for name in ("fp16", "int8") if name in precisions]  # OpenVINO makes bf16 by itself
    needed = {*precisions, *(("fp16",) if "int8" in precisions else ())}  # the words of a GPU's int8 are those of fp16
    return [name for name in ("fp16", "bf16", "int8") if name in needed]


def read_facts(folder: Path) -> Facts:
    """The facts that `main` wrote."""
    return Facts(**json.loads((folder / FACTS).read_text(encoding="utf-8")))


def pair_sets(root: Path) -> list[int]:
    """How many pairs each set holds that was drawn so far; a larger one begins with the pairs of a smaller one."""
    return [int(path.name.rpartition("-")[2]) for path in root.glob(f"{PAIRS}-*")]


def read_pairs(work: Path, count: int) -> list[CaptionedPair]:
    """The first pairs of the scenes."""
    return read_levir(work.parent / f"{PAIRS}-{max(pair_sets(work.parent))}", SPLIT)[:count]


def read_images(pairs: list[CaptionedPair], model: Path) -> NDArray[np.uint8]:
    """Pairs as the image encoder takes them, uint8 [N, 2, size, size, 3]."""
    preprocessing = Manifest.load(model, verify=False).preprocessing
    return np.stack([prepare_pair((pair.before, pair.after), preprocessing) for pair in pairs])


def main() -> None:
    """Make what is missing; say what on stderr."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--size", required=True)
    parser.add_argument("--export", type=Path, help="a model folder to export to, if it is not there")
    parser.add_argument("--variants", nargs="*", default=[], help="precisions beside float32 to export")
    parser.add_argument("--model", type=Path, help="a model folder that is there already")
    parser.add_argument("--checkpoint", action="store_true", help="write the checkpoint in any case")
    parser.add_argument("--pairs", type=int, required=True)
    parser.add_argument("--plain", action="store_true", help="export the plain ONNX files too")
    arguments = parser.parse_args()
    folder: Path = arguments.folder
    folder.mkdir(parents=True, exist_ok=True)
    try:
        if max(pair_sets(folder.parent), default=0) < arguments.pairs:
            make_pairs(folder.parent / f"{PAIRS}-{arguments.pairs}", arguments.pairs, SEED)
        if "int8" in arguments.variants:
            make_pairs(folder.parent / CALIBRATION, _CALIBRATING, SEED + 1)
        if arguments.checkpoint or arguments.plain or arguments.model is None:
            facts = make_model(folder, arguments.size, arguments.export, arguments.variants, plain=arguments.plain)
        else:
            longest = Manifest.load(arguments.model, verify=False).max_len
            facts = Facts(arguments.model.name, 0, forced=False, max_length=longest)
        (folder / FACTS).write_text(json.dumps(asdict(facts)), encoding="utf-8")
    except RsicrcError as error:
        raise SystemExit(f"error: {error}") from error
    except ImportError as error:
        raise SystemExit(f"error: {error}: `pip install 'rsicrc[export]'`") from error


def make_pairs(folder: Path, count: int, seed: int) -> None:
    """Draw scenes that no model was trained on, in LEVIR-CC's layout."""
    from rsicrc_train.synth.dataset import generate

    if not folder.is_dir():
        say(f"drawing {count} pairs of scenes")
        partial = folder.with_name(f".{folder.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        generate(partial, count, seed, {SPLIT: 1.0})
        partial.rename(folder)


def make_model(folder: Path, size: str, export: Path | None, variants: Sequence[str], *, plain: bool) -> Facts:
    """The checkpoint, the model folder, the plain ONNX files; the facts about them."""
    from rsicrc_train import checkpoint

    source = folder / CHECKPOINT
    if not source.is_file():
        say("writing the checkpoint")
        # Without its no-change sentences: the engine scores them beside every caption, which no other contestant does.
        saved = random_checkpoint() if size == "published" else checkpoint.load(Path(size))
        checkpoint.save(replace(saved, no_change_sentences=(), progress={}), source)
    if export is not None and not (export / MANIFEST_FILE).is_file():
        make_folder(source, export, variants)
    files = folder / PLAIN
    if plain and not files.is_dir():
        from contestants import plain_onnx

        say("exporting the plain ONNX files")
        partial = folder / f".{PLAIN}.partial"
        partial.mkdir(exist_ok=True)
        plain_onnx.export(source, partial)
        partial.rename(files)
    saved = checkpoint.load(source)
    tensors = {tensor.data_ptr(): tensor for tensor in saved.state_dict.values()}  # a tied one counts once
    return Facts(
        name="published size, random weights" if size == "published" else Path(size).name,
        parameters=sum(tensor.numel() for tensor in tensors.values() if tensor.is_floating_point()),
        forced=size == "published",
        max_length=saved.config.max_len,
    )


def make_folder(source: Path, target: Path, variants: Sequence[str]) -> None:
    """Export a checkpoint with `rsicrc-export`.

    A precision that cannot be made is left out, with a line that says why: random weights may not survive int8, and
    what quantizes may not be installed, but the others are worth measuring all the same.
    """
    import click

    from rsicrc_export.cli import command

    wanted = list(variants)
    while True:
        words = [word for name in wanted for word in ("--precision", name)]
        if "int8" in wanted:
            words += ["--calibration", str(source.parents[1] / CALIBRATION)]
        try:
            command.main([str(source), "-o", str(target), "--force", *words], standalone_mode=False)
            return
        except (RsicrcError, click.UsageError) as error:
            if not wanted:
                raise
            reason = error.format_message() if isinstance(error, click.UsageError) else str(error)
            culprit = next((name for name in wanted if name in reason), wanted[-1])
            say(f"skipped: {culprit}: {reason}")
            wanted.remove(culprit)


def random_checkpoint() -> Checkpoint:
    """The published size with weights from a seed, whose captions never end: the same for every contestant.

    The last normalization is made to give one channel the same value whatever comes in, and in the tied table that
    channel holds 0 for every word and a negative number for END. So END's logit is far below all others in any
    arithmetic, and nothing else of the model knows.
    """
    import torch

    from rsicrc_train.checkpoint import Checkpoint
    from rsicrc_train.config import PRESETS
    from rsicrc_train.model import RSICRC

    torch.manual_seed(SEED)
    config = PRESETS["published"]
    model = RSICRC(config, PUBLISHED_WORDS)
    with torch.no_grad():
        # Blocks that add little to what they get, as trained ones do: at full strength random ones amplify any rounding
        # until nothing survives int8.
        for name, weight in model.named_parameters():
            if name.endswith(".bn3.weight"):
                weight *= _BLOCKS
        last = model.decoder.multimodal[-1].feed_forward_norm
        last.weight[0], last.bias[0] = 0.0, _CONSTANT
        model.decoder.embedding.weight[:, 0] = 0.0
        model.decoder.embedding.weight[END, 0] = _AGAINST_END
    words = tuple(f"word{number}" for number in range(PUBLISHED_WORDS - len(SPECIAL_WORDS)))
    return Checkpoint(config, (*SPECIAL_WORDS, *words), (), model.state_dict())


def say(line: str) -> None:
    """Progress, for people."""
    sys.stderr.write(f"{line}\n")
    sys.stderr.flush()


if __name__ == "__main__":
    main()
