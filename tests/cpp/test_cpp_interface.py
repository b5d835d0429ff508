"""The interface of the C++ library: installation, exported symbols, struct sizes, and refused arguments and folders."""

from __future__ import annotations

import ctypes as c
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

import rsicrc
from rsicrc.manifest import Manifest, sha256_file
from tests.cpp import binding
from tests.cpp.binding import CallError, Engine
from tests.cpp.conftest import ROOT, SOURCE, Build, clang, run, smooth_pairs

pytestmark = pytest.mark.slow


def test_example_builds_with_find_package(gcc_build: Build, model_folder: Path, tmp_path: Path) -> None:
    example = SOURCE / "examples"
    run("cmake", "-S", example, "-B", tmp_path / "build", f"-DCMAKE_PREFIX_PATH={gcc_build.prefix}",
        "-DCMAKE_CXX_FLAGS=-Wall -Wextra -Wconversion -Werror")  # fmt: skip
    run("cmake", "--build", tmp_path / "build")
    ((before, after),) = smooth_pairs(1, 150, 110)
    paths = []
    for name, pixels in (("before", before), ("after", after)):
        paths.append(tmp_path / f"{name}.png")
        Image.fromarray(pixels).save(paths[-1])
    text = rsicrc.load(model_folder, backend="onnxruntime", threads=1).caption([(before, after)])[0].text
    assert run(tmp_path / "build" / "caption", model_folder, *paths).stdout == f"{text}\n"
    (tmp_path / "after.png").write_bytes((tmp_path / "after.png").read_bytes()[:200])
    failed = subprocess.run(
        [str(tmp_path / "build" / "caption"), str(model_folder), *map(str, paths)], capture_output=True, text=True
    )
    assert (failed.returncode, failed.stdout) == (1, "")
    assert "after.png" in failed.stderr


def compile_with_pkg_config(installed: Build, source: Path, program: Path) -> str:
    """Compile a C program with the flags of pkg-config alone, as an application would. Return the package's version."""
    for tool in ("pkg-config", "gcc"):
        if shutil.which(tool) is None:
            pytest.skip(f"no {tool}")
    (package,) = installed.prefix.rglob("rsicrc.pc")
    env = {"PKG_CONFIG_PATH": str(package.parent)}
    flags = run("pkg-config", "--cflags", "--libs", "rsicrc", env=env).stdout.split()
    run("gcc", "-std=c99", "-pedantic", "-Wall", "-Wextra", "-Wconversion", "-Werror", source, "-o", program, *flags)
    return run("pkg-config", "--modversion", "rsicrc", env=env).stdout.strip()


def test_pkg_config_program_finds_the_library(
    gcc_build: Build, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    source = tmp_path / "version.c"
    source.write_text(
        "#include <rsicrc/rsicrc.h>\n#include <stdio.h>\nint main(void) { puts(rsicrc_version()); return 0; }\n"
    )
    version = compile_with_pkg_config(gcc_build, source, tmp_path / "version")
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert run(tmp_path / "version").stdout.strip() == version


def test_older_header_works_and_newer_is_refused(gcc_build: Build, model_folder: Path, tmp_path: Path) -> None:
    source = Path(__file__).parent / "older_header.c"
    compile_with_pkg_config(gcc_build, source, tmp_path / "older_header")
    run(tmp_path / "older_header", model_folder)


def test_struct_sizes_are_checked(library: c.CDLL, model_folder: Path) -> None:
    engine = Engine(library, model_folder)
    pairs = binding.pair_array(smooth_pairs(1, 100, 90))
    one, model = c.c_size_t(1), c.c_void_p()
    engine.check(library.rsicrc_caption(engine.context, pairs, one, None))
    open_options, caption_options = binding.OpenOptions(), binding.CaptionOptions()
    info, sentence = binding.Info(), binding.Sentence()
    calls: dict[str, tuple[Any, Callable[[], int]]] = {
        "rsicrc_open_options": (
            open_options,
            lambda: library.rsicrc_open(str(model_folder).encode(), c.byref(open_options), c.byref(model)),
        ),
        "rsicrc_info": (info, lambda: library.rsicrc_model_info(engine.model, c.byref(info))),
        "rsicrc_caption_options": (
            caption_options,
            lambda: library.rsicrc_caption(engine.context, pairs, one, c.byref(caption_options)),
        ),
        "rsicrc_sentence": (
            sentence,
            lambda: library.rsicrc_caption_at(engine.context, c.c_size_t(0), c.c_size_t(0), c.byref(sentence)),
        ),
    }
    for name, (struct, call) in calls.items():
        known = c.sizeof(struct)
        for size in (known + 8, 0, 4, known - 1):
            struct.size = size
            assert call() == binding.INVALID_ARGUMENT
            message = library.rsicrc_last_error().decode()
            assert all(part in message for part in (name, f" {size} bytes", f" {known}")), message
    engine.close()


def test_only_the_interface_is_exported(gcc_build: Build) -> None:
    listed = run("nm", "--dynamic", "--defined-only", "--extern-only", gcc_build.library).stdout.splitlines()
    exported = {line.split()[-1] for line in listed if line.split()[-2] == "T"}
    header = (SOURCE / "include" / "rsicrc" / "rsicrc.h").read_text()
    declared = set(re.findall(r"^RSICRC_API .*?(rsicrc_\w+)\(", header, re.MULTILINE))
    assert "rsicrc_open" in declared
    assert exported == declared


@pytest.mark.parametrize(("definition", "storage"), [("-DRSICRC_BUILDING", "dllexport"), ("-DUSING", "dllimport")])
def test_header_exports_and_imports_on_windows(tmp_path: Path, definition: str, storage: str) -> None:
    source = tmp_path / "use.c"
    body = "{ return 0; }" if storage == "dllexport" else ";"
    source.write_text(
        "#include <rsicrc/rsicrc.h>\n"
        f"RSICRC_API const char* RSICRC_CALL rsicrc_version(void) {body}\n"
        "const char* use(void) { return rsicrc_version(); }\n"
    )
    target = ("--target=x86_64-pc-windows-msvc", "-ffreestanding", "-S", "-emit-llvm", "-o", "-")
    code = run(clang().replace("clang++", "clang"), *target, definition, f"-I{SOURCE / 'include'}", source).stdout
    assert re.search(rf"{storage}\b.*@rsicrc_version", code), code


def test_invalid_arguments_are_refused(library: c.CDLL, model_folder: Path) -> None:
    engine = Engine(library, model_folder)
    ((before, after),) = smooth_pairs(1, 100, 90)
    pair = binding.pair_array([(before, after)])
    one, floats = c.c_size_t(1), (c.c_float * 4096)()

    def refused(status: int, got: int, *parts: str) -> None:
        message = library.rsicrc_last_error().decode()
        assert got == status, message
        assert all(part in message for part in parts), message

    refused(binding.INVALID_ARGUMENT, library.rsicrc_caption(None, pair, one, None), "context")
    refused(binding.INVALID_ARGUMENT, library.rsicrc_caption(engine.context, None, one, None), "pairs")
    refused(binding.INVALID_ARGUMENT, library.rsicrc_caption(engine.context, pair, c.c_size_t(0), None), "pairs")
    refused(
        binding.INVALID_ARGUMENT,
        library.rsicrc_embed_pairs(engine.context, pair, one, floats, c.c_size_t(3)),
        "capacity",
    )
    refused(
        binding.INVALID_ARGUMENT, library.rsicrc_embed_pairs(engine.context, pair, one, None, c.c_size_t(4096)), "NULL"
    )
    refused(binding.INVALID_ARGUMENT, library.rsicrc_open(None, None, c.byref(c.c_void_p())), "folder")
    refused(binding.INVALID_ARGUMENT, library.rsicrc_open(b"x", None, None), "model")
    refused(binding.NOT_FOUND, library.rsicrc_open(b"/nowhere", None, c.byref(c.c_void_p())), "/nowhere")
    library.rsicrc_close(None)
    library.rsicrc_context_close(None)
    pair[0].after.bytes -= 1
    refused(
        binding.INVALID_ARGUMENT, library.rsicrc_caption(engine.context, pair, one, None), "pair 0", "after", "bytes"
    )
    pair[0].after.bytes, pair[0].after.height = 1 << 63, 1 << 62
    refused(binding.BAD_IMAGE, library.rsicrc_caption(engine.context, pair, one, None), "pixels")
    with pytest.raises(CallError, match="beams"):
        engine.caption([(before, after)], 1000, 1)
    with pytest.raises(CallError, match="n_best"):
        engine.caption([(before, after)], 2, 3)
    with pytest.raises(CallError, match="finite"):
        engine.caption([(before, after)], 2, 1, use_length_penalty=1, length_penalty=float("nan"))
    with pytest.raises(CallError, match="no sentence"):
        engine.sentence(0, 0)
    engine.caption([(before, after)], 2, 2)
    with pytest.raises(CallError, match="no sentence 2"):
        engine.sentence(0, 2)
    with pytest.raises(CallError, match=r"built without tensorrt|TensorRT"):
        Engine(library, model_folder, backend="tensorrt")
    engine.close()


def caption_one(library: c.CDLL, folder: Path) -> None:
    engine = Engine(library, folder)
    engine.caption(smooth_pairs(1, 100, 100), 3, 1)


def edit_manifest(folder: Path, **fields: object) -> None:
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **fields}))


def replace_file(folder: Path, name: str, content: bytes) -> None:
    """Replace a file and its hash, as an attacker would."""
    (folder / name).write_bytes(content)
    fields = json.loads((folder / "manifest.json").read_text())
    fields["files"][name] = {"sha256": sha256_file(folder / name), "bytes": len(content)}
    edit_manifest(folder, files=fields["files"])


def test_damaged_folders_are_refused(library: c.CDLL, model_folder: Path, tmp_path: Path) -> None:
    def refused(change: object, *parts: str) -> None:
        folder = tmp_path / f"model{len(list(tmp_path.iterdir()))}"
        shutil.copytree(model_folder, folder)
        change(folder)  # type: ignore[operator]
        with pytest.raises(CallError) as caught:
            caption_one(library, folder)
        assert caught.value.status == binding.BAD_MODEL
        assert all(part in str(caught.value) for part in parts), caught.value

    refused(lambda folder: (folder / "manifest.json").unlink(), "manifest.json", "missing")
    refused(lambda folder: (folder / "manifest.json").write_text("{"), "not valid JSON")
    refused(lambda folder: (folder / "manifest.json").write_text("[" * 100_000), "not valid JSON")
    refused(lambda folder: (folder / "manifest.json").write_text("{}"), "format")
    refused(lambda folder: edit_manifest(folder, format_version=2), "newer rsicrc")
    refused(lambda folder: edit_manifest(folder, max_len="long"), "max_len")
    refused(lambda folder: edit_manifest(folder, graphs={}), "image_encoder")
    refused(lambda folder: edit_manifest(folder, files={"../x": {"sha256": "", "bytes": 0}}), "plain file name")
    refused(lambda folder: (folder / "decoder.onnx").unlink(), "decoder.onnx", "missing")
    decoder = (model_folder / "decoder.onnx").read_bytes()
    changed = decoder[:1000] + bytes([decoder[1000] ^ 1]) + decoder[1001:]
    refused(lambda folder: (folder / "decoder.onnx").write_bytes(decoder[:-1]), "decoder.onnx", "bytes")
    refused(lambda folder: (folder / "decoder.onnx").write_bytes(changed), "decoder.onnx", "SHA-256")
    refused(lambda folder: replace_file(folder, "decoder.onnx", decoder[:1000]), "decoder.onnx", "truncated")
    refused(lambda folder: replace_file(folder, "tokenizer.json", b"{}"), "tokenizer.json")
    tokenizer = (model_folder / "tokenizer.json").read_text()
    refused(
        lambda folder: replace_file(folder, "tokenizer.json", tokenizer.replace("Lowercase", "NFC").encode()),
        "does not know",
    )
    preprocessing = {**Manifest.load(model_folder).preprocessing.to_dict(), "size": 64}
    refused(lambda folder: edit_manifest(folder, preprocessing=preprocessing), "images")


def test_signal_handler_works_after_models_are_closed(gcc_build: Build, model_folder: Path) -> None:
    """The first model changes the signal stack of its thread. Closing a model must not restore a freed stack."""
    code = """
import os, signal, sys
from pathlib import Path
from tests.cpp.binding import Engine, open_library
signal.signal(signal.SIGUSR1, lambda *_: print("handled", flush=True))
library = open_library(Path(sys.argv[1]))
engines = [Engine(library, Path(sys.argv[2])) for _ in range(2)]
for engine in engines:
    engine.embed_texts(["the road"])
for engine in engines:
    engine.close()
os.kill(os.getpid(), signal.SIGUSR1)
"""
    done = run(sys.executable, "-c", code, gcc_build.library, model_folder, env={"PYTHONPATH": str(ROOT)})
    assert done.stdout == "handled\n"
