"""`rsicrc-run` with one pair: results, and the message of each wrong use."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import rsicrc
from tests.runtime.conftest import Command


def one_error(err: str) -> str:
    """Return the only line on stderr, without its prefix."""
    assert err.count("\n") == 1
    assert err.startswith("rsicrc-run: error: ")
    return err


def test_help_imports_nothing_heavy() -> None:
    script = """
import sys
from rsicrc.cli.main import COMMANDS, app
from typer.testing import CliRunner
for args in [["--help"], ["--version"], *([command.__name__, "--help"] for command in COMMANDS)]:
    assert CliRunner().invoke(app, args).exit_code == 0, args
print(sorted({"numpy", "PIL", "rich", "onnxruntime", "tokenizers", "torch", "lancedb", "pyarrow"} & sys.modules.keys()))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


def test_installed_command_shows_its_version() -> None:
    command = Path(sys.executable).parent / "rsicrc-run"
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"rsicrc-run {rsicrc.__version__}\n"


def test_caption_is_text_by_default(rsicrc_run: Command, model_folder: Path, pictures: Path, auto_line: str) -> None:
    ended = rsicrc_run("caption", pictures / "1a.png", pictures / "1b.png", "--model", model_folder)
    caption = rsicrc.load(model_folder).caption([(pictures / "1a.png", pictures / "1b.png")])[0]
    notes = "".join(f"note: {line}\n" for line in caption.warnings)
    assert (ended.code, ended.err) == (0, auto_line + notes)
    decision = "changed" if caption.changed else "unchanged"
    change = f"change {caption.change_score:.3f} ({decision})"
    assert ended.out == f"{caption.text}\nscore {caption.score:.4f}   {change}\n"


def test_tiles_cover_a_wide_pair(rsicrc_run: Command, model_folder: Path, tmp_path: Path) -> None:
    """A change at the border is not in the center square; the note says so, and `--tile` finds the change."""
    random = np.random.default_rng(0)
    before = random.integers(0, 256, (64, 256, 3), dtype=np.uint8)
    after = before.copy()
    after[:, :64] = random.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    for name, pixels in (("before", before), ("after", after)):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    pair = tmp_path / "before.png", tmp_path / "after.png"
    plain = rsicrc_run("caption", *pair, "--model", model_folder, "--json")
    document = json.loads(plain.out)
    assert document["seen"] == [96, 0, 160, 64]
    assert any("columns 96 to 160 and rows 0 to 64 of 256 x 64 pixels" in line for line in document["warnings"])
    ended = rsicrc_run("caption", *pair, "--model", model_folder, "--tile", "--json")
    tiles = json.loads(ended.out)["tiles"]
    assert sorted(tile["seen"] for tile in tiles) == [[left, 0, left + 64, 64] for left in (0, 48, 96, 144, 192)]
    scores = [tile["change_score"] for tile in tiles]
    assert scores == sorted(scores, reverse=True)
    text = rsicrc_run("caption", *pair, "--model", model_folder, "--tile")
    assert text.out.count("columns ") == len(tiles)
    assert rsicrc_run("caption", *pair, "--tile", "--heatmap", "x.png").code == 2


def test_n_best_list_is_ranked(rsicrc_run: Command, model_folder: Path, pictures: Path) -> None:
    pair = pictures / "1a.png", pictures / "1b.png"
    ended = rsicrc_run("caption", *pair, "--model", model_folder, "--beams", "4", "--n-best", "3")
    lines = ended.out.splitlines()
    assert lines[2] == ""
    assert [line.split()[0] for line in lines[3:]] == ["1", "2", "3"]
    assert lines[3].endswith(lines[0])


def test_json_caption_matches_the_engine(rsicrc_run: Command, model_folder: Path, pictures: Path) -> None:
    pair = pictures / "2a.png", pictures / "2b.png"
    search = ("--beams", "4", "--n-best", "2", "--length-penalty", "0.5", "--threads", "1")
    ended = rsicrc_run("caption", *pair, "--model", model_folder, "--json", *search)
    document = json.loads(ended.out)
    caption = rsicrc.load(model_folder, threads=1).caption([pair], beams=4, n_best=2, length_penalty=0.5)[0]
    assert (document["caption"], document["n_best"][1]["caption"]) == (caption.text, caption.n_best[1].text)
    assert document["token_log_probs"] == pytest.approx(caption.token_log_probs, abs=1e-5)
    assert [document["score"], document["change_score"]] == pytest.approx(
        [caption.score, caption.change_score], abs=1e-5
    )
    assert (document["before"], document["after"]) == tuple(map(str, pair))
    assert len(document["n_best"]) == 2
    assert len(document["model"]) == 12


def test_model_comes_from_the_environment_or_the_current_folder(
    rsicrc_run: Command, model_folder: Path, pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair = pictures / "1a.png", pictures / "1b.png"
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RSICRC_MODEL", str(model_folder))
    assert rsicrc_run("caption", *pair).code == 0
    monkeypatch.delenv("RSICRC_MODEL")
    ended = rsicrc_run("caption", *pair)
    assert ended.code == 1
    assert "no such model folder" in one_error(ended.err)
    (tmp_path / "model").symlink_to(model_folder)
    assert rsicrc_run("caption", *pair).code == 0


def test_heatmap_is_one_new_file(
    rsicrc_run: Command, model_folder: Path, pictures: Path, auto_line: str, tmp_path: Path
) -> None:
    picture = tmp_path / "map.png"
    pair = pictures / "1a.png", pictures / "1b.png"
    ended = rsicrc_run("caption", *pair, "--model", model_folder, "--heatmap", picture)
    assert (ended.code, ended.err) == (0, f"{auto_line}heat map: {picture}\n")
    assert Image.open(picture).width == 1240
    assert [path.name for path in tmp_path.iterdir()] == ["map.png"]


def test_unwritable_heatmap_does_not_lose_the_caption(
    rsicrc_run: Command, model_folder: Path, pictures: Path, tmp_path: Path
) -> None:
    pair = pictures / "1a.png", pictures / "1b.png"
    arguments = ("--heatmap", tmp_path / "no" / "map.png", "--device", "cpu", "--backend", "onnxruntime")
    ended = rsicrc_run("caption", *pair, "--model", model_folder, *arguments)
    assert ended.code == 1
    assert ended.out  # the caption is not lost
    assert "map.png: No such file or directory" in one_error(ended.err)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        ([], "give two images"),
        (["1a.png"], "give two images"),
        (["1a.png", "1b.png", "2a.png"], "unexpected extra argument"),
        (["1a.png", "1b.png", "-o", "x.jsonl"], "-o and --force go with --pairs"),
        (["1a.png", "1b.png", "--pairs", "x.csv"], "--pairs goes with neither"),
        (["1a.png", "1b.png", "--heatmap", "x.txt"], "must end in one of .png"),
        (["1a.png", "1b.png", "--beams", "0"], "--beams"),
        (["1a.png", "1b.png", "--beams", "2", "--n-best", "3"], "n_best must be from 1 to beams (2), not 3"),
        (["1a.png", "1b.png", "--length-penalty", "nan"], "length_penalty must be a finite number"),
        (["1a.png", "1b.png", "--threads", "0"], "--threads"),
    ],
)
def test_wrong_arguments_are_one_line(
    rsicrc_run: Command,
    model_folder: Path,
    pictures: Path,
    args: list[str],
    message: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(pictures)
    monkeypatch.setenv("RSICRC_MODEL", str(model_folder))
    ended = rsicrc_run("caption", *args)
    assert (ended.code, ended.out) == (2, "")
    assert message in one_error(ended.err)


def test_bad_images_are_named(rsicrc_run: Command, model_folder: Path, pictures: Path, tmp_path: Path) -> None:
    good, empty, text, small = pictures / "1a.png", tmp_path / "e.png", tmp_path / "t.png", tmp_path / "s.png"
    empty.touch()
    text.write_text("not an image")
    Image.new("RGB", (60, 60)).save(small)
    for bad in (tmp_path / "missing.png", empty, text, small, tmp_path):
        for pair in ((good, bad), (bad, good)):
            ended = rsicrc_run("caption", *pair, "--model", model_folder)
            assert (ended.code, ended.out) == (1, "")
            assert str(bad) in one_error(ended.err)


def test_bad_model_folders_are_named(rsicrc_run: Command, model_copy: Path, pictures: Path, tmp_path: Path) -> None:
    pair = pictures / "1a.png", pictures / "1b.png"

    def refused(folder: Path) -> str:
        errors = set()
        for command in (["caption", *pair], ["info"]):
            ended = rsicrc_run(*command, "--model", folder)
            assert (ended.code, ended.out) == (1, "")
            errors.add(one_error(ended.err))
        (error,) = errors
        assert rsicrc_run("doctor", "--model", folder).code == 1
        return error

    assert "no such model folder" in refused(tmp_path / "nowhere")
    assert "not a model folder" in refused(pictures)

    manifest = model_copy / "manifest.json"
    good = manifest.read_text()
    manifest.write_text(json.dumps({**json.loads(good), "format_version": 99}))
    assert "made by a newer rsicrc" in refused(model_copy)
    manifest.write_text(good[:1000])
    assert "not valid JSON" in refused(model_copy)
    manifest.write_text(good)

    graph = model_copy / "decoder.onnx"
    content = graph.read_bytes()
    changed = bytearray(content)
    changed[len(content) // 2] ^= 1
    graph.write_bytes(changed)
    assert "SHA-256 differs" in refused(model_copy)
    graph.unlink()
    assert "decoder.onnx: missing" in refused(model_copy)
    graph.write_bytes(content)
    assert rsicrc_run("info", "--model", model_copy).code == 0


def test_info_lists_the_manifest(rsicrc_run: Command, model_folder: Path) -> None:
    ended = rsicrc_run("info", "--model", model_folder)
    manifest = json.loads((model_folder / "manifest.json").read_text())
    assert (ended.code, ended.err) == (0, "")
    for expected in (
        str(model_folder),
        "fp32",
        f"{manifest['vocab_size']} words",
        f"{manifest['search']['beams']} beams",
        manifest["checkpoint"]["sha256"],
        *(record["sha256"] for record in manifest["files"].values()),
        *(name for graph in manifest["graphs"].values() for name in (*graph["inputs"], *graph["outputs"])),
    ):
        assert expected in ended.out


def test_json_info_contains_the_manifest(rsicrc_run: Command, model_folder: Path) -> None:
    document = json.loads(rsicrc_run("info", "--model", model_folder, "--json").out)
    assert document.items() >= json.loads((model_folder / "manifest.json").read_text()).items()
    assert document["bytes"] == sum((model_folder / name).stat().st_size for name in document["files"])


def test_doctor_lists_its_topics(rsicrc_run: Command, model_folder: Path) -> None:
    ended = rsicrc_run("doctor", "--model", model_folder)
    assert (ended.code, ended.err) == (0, "")
    topics = {line.split()[1] for line in ended.out.splitlines()}
    assert topics >= {"rsicrc", "python", "onnxruntime", "providers", "cpu", "threads", "memory", "model"}


def test_doctor_fails_for_a_damaged_model(rsicrc_run: Command, model_folder: Path, damaged_folder: Path) -> None:
    well = rsicrc_run("doctor", "--json", "--model", model_folder)
    assert (well.code, json.loads(well.out)["ok"]) == (0, True)
    ill = rsicrc_run("doctor", "--json", "--model", damaged_folder)
    findings = json.loads(ill.out)["findings"]
    assert (ill.code, json.loads(ill.out)["ok"]) == (1, False)
    assert [each["topic"] for each in findings if each["level"] == "problem"] == ["model"]


@pytest.mark.parametrize(
    "command",
    [
        ("caption", "1a.png", "1b.png"),
        ("caption", "1a.png", "1b.png", "--tile"),
        ("caption", "--pairs", "pairs.csv"),
        ("index", "pairs.csv", "-o", "index"),
        ("search", "index", "a road"),
        ("info", "--memory"),
    ],
    ids=" ".join,
)
def test_engines_reach_the_choice_of_the_backend(
    rsicrc_run: Command,
    model_folder: Path,
    pictures: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    command: tuple[str, ...],
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("1a.png", "1b.png"):
        (tmp_path / name).write_bytes((pictures / name).read_bytes())
    (tmp_path / "pairs.csv").write_text("before,after\n1a.png,1b.png\n")
    if command[0] == "search":
        pytest.importorskip("lancedb", reason="needs rsicrc[search]")
        rsicrc_run("index", "pairs.csv", "-o", "index", "--model", model_folder, "--backend", "onnxruntime")
    ended = rsicrc_run(*command, "--model", model_folder, "--backend", "onnxruntime", "--engines", tmp_path / "plans")
    assert ended.code == (1 if command[0] == "info" else 2)  # `info --memory` loads the model in another process
    assert "engines is a setting of tensorrt: leave it out, or choose that backend" in ended.err
