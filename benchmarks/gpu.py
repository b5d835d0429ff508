"""Tests and benchmarks on a GPU in one command: tests/gpu, then latency and throughput compared with PyTorch.

    python benchmarks/gpu.py [--device cuda:0] [--model FOLDER] [--size CKPT] [--steps tests latency throughput]

`make test-gpu` calls it. Nothing is installed or downloaded: a part whose packages are missing is skipped, with a
message. The results are one JSON file and one Markdown file in benchmarks/results, named after the device; steps of an
earlier run on the same device and model are kept.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from common.gpu_report import GpuReport

ROOT = Path(__file__).resolve().parents[1]
REQUIRED = {"numpy": "numpy", "PIL": "pillow", "tokenizers": "tokenizers"}  # module → package
STEPS = ("tests", "latency", "throughput")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
CPU_BACKENDS = ("onnxruntime", "openvino")
GPU_BACKENDS = ("onnxruntime", "onnxruntime-tensorrt", "tensorrt")
TASKS = ("caption", "images", "texts", "encoder", "step")
BASELINES = ("published", "pytorch", "pytorch-bf16", "compile-bf16", "graph-bf16", "huggingface", "onnx-plain")


def main() -> None:
    """Run the steps; the exit status is 1 if one of them failed, or if there was nothing to test."""
    if missing := [package for module, package in REQUIRED.items() if find_spec(module) is None]:
        raise SystemExit(f"error: {', '.join(missing)} missing: at least {', '.join(REQUIRED.values())} must be there")
    arguments = parse()
    # The packages are used from the checkout, so that an installation is not needed.
    packages = [str(ROOT / name) for name in ("runtime", "train", "export", "benchmarks")]
    sys.path[:0] = packages
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*packages, str(ROOT), os.environ.get("PYTHONPATH", "")]))

    from common import gpu
    from common.gpu_report import GpuReport
    from common.runner import device_name, slug

    if gpu.is_gpu(arguments.device) and (problem := gpu.problem(arguments.device)):
        raise SystemExit(f"error: nothing was tested: {problem}")
    device = device_name(arguments.device, arguments.threads)
    folder = find_folder(arguments)
    output = arguments.output or ROOT / "benchmarks" / "results" / f"gpu-{slug(device)}.json"
    report = GpuReport.open(output, device, folder)
    try:
        for step in arguments.steps:
            if step == "tests":
                test(arguments, folder, report)
            else:
                benchmark(step, arguments, folder, report)
            report.write()  # a run that a time limit ends keeps its finished steps
    finally:
        report.write()
        sys.stdout.write(report.text() + "\n")
    if report.found["failed"]:
        raise SystemExit(1)


def parse() -> argparse.Namespace:
    """Parse the options."""
    formatter = argparse.ArgumentDefaultsHelpFormatter
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0], formatter_class=formatter)
    add = parser.add_argument
    add("--device", default="cuda:0", help="the GPU; with cpu, the same steps run on the CPU")
    add("--size", default=str(ROOT / "examples" / "tiny.pt"), help="published, or a checkpoint")
    add("--model", type=Path, help="model folder exported from it; exported here if not given")
    add("--steps", nargs="+", choices=STEPS, default=list(STEPS), help="steps to run")
    add("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS), help="precisions to export")
    add("--baselines", nargs="+", choices=BASELINES, default=list(BASELINES), help="baselines of PyTorch")
    add("--batches", type=int, default=1000, help="batches of the stress test")
    add("--sizes", type=int, nargs="+", default=[1, 8, 64], help="pairs per batch, for throughput")
    add("--rounds", type=int, default=2, help="turns of every implementation")
    add("--seconds", type=float, default=1.0, help="time for which a case is repeated in a turn")
    add("--threads", type=int, default=len(os.sched_getaffinity(0)), help="threads of every library")
    add("--work", type=Path, default=ROOT / "runs" / "gpu", help="folder of the assets")
    add("--output", type=Path, help="JSON file; named after the device if not given")
    return parser.parse_args()


def find_folder(arguments: argparse.Namespace) -> Path:
    """Return the given model folder, or one exported from the checkpoint.

    Raises:
        SystemExit: No model folder is given, and none can be exported.
    """
    from common import assets
    from common.processes import run_module

    if arguments.model is not None:
        return Path(arguments.model)
    work = assets.folder_of(arguments.work, arguments.size)
    variants = assets.variants(arguments.precisions, arguments.device)
    folder = work / "-".join([assets.FOLDER, *variants])
    options = ("--size", arguments.size, "--pairs", "0", "--export", str(folder), "--variants", *variants)
    try:
        run_module("common.assets", str(work), *options, threads=arguments.threads)
    except SystemExit as error:
        command = "rsicrc-export CKPT -o FOLDER --precision fp16 --precision bf16 --precision int8 --calibration DATA"
        raise SystemExit(f"error: no model folder could be exported: run `{command}`, set GPU_MODEL=FOLDER") from error
    return folder


def test(arguments: argparse.Namespace, folder: Path, report: GpuReport) -> None:
    """Run tests/gpu in a process of its own."""
    if find_spec("pytest") is None:
        report.skip("tests: pytest is not installed")
        return
    environment = {
        **os.environ,
        "RSICRC_GPU_MODEL": str(folder.resolve()),
        "RSICRC_GPU_DEVICE": arguments.device,
        "RSICRC_GPU_BATCHES": str(arguments.batches),
    }
    with tempfile.TemporaryDirectory() as temporary:
        junit = Path(temporary) / "junit.xml"
        options = ["-m", "gpu", "-p", "no:cacheprovider", "--durations", "5", "--junitxml", str(junit)]
        command = [sys.executable, "-m", "pytest", str(ROOT / "tests" / "gpu"), "--rootdir", str(ROOT), *options]
        done = subprocess.run(command, env=environment, cwd=ROOT, stdout=sys.stderr, check=False)  # noqa: S603
        report.add_tests(junit, done.returncode)


def benchmark(step: str, arguments: argparse.Namespace, folder: Path, report: GpuReport) -> None:
    """Run latency.py or throughput.py in a process of its own; its notes tell why a backend or a precision failed."""
    from common.gpu import is_gpu

    baselines = list(arguments.baselines)
    if missing := [name for name in ("torch", "open_clip") if find_spec(name) is None]:
        report.skip(f"baselines of PyTorch: {', '.join(missing)} not installed")
        baselines = []
    elif find_spec("transformers") is None and "huggingface" in baselines:
        report.skip("baseline huggingface: transformers is not installed")
        baselines.remove("huggingface")
    if find_spec("torch") is None or find_spec("onnx") is None:
        report.skip(f"roofline of {step}: torch measures the peak rates, and onnx reads the graphs")
    results = arguments.work / f"{step}.json"
    results.unlink(missing_ok=True)
    options = [
        *("--size", arguments.size, "--model", str(folder), "--device", arguments.device),
        *("--baselines", "rsicrc", *baselines, "--precisions", *arguments.precisions),
        *("--backends", *(GPU_BACKENDS if is_gpu(arguments.device) else CPU_BACKENDS)),
        *("--rounds", str(arguments.rounds), "--seconds", str(arguments.seconds)),
        *("--threads", str(arguments.threads), "--work", str(arguments.work), "--json", str(results)),
        *("--tasks", *TASKS, "--beams", "1", "5"),
        *(("--batches", *map(str, arguments.sizes)) if step == "throughput" else ()),
    ]
    command = [sys.executable, str(ROOT / "benchmarks" / f"{step}.py"), *options]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)  # noqa: S603
    if results.is_file():
        report.add_results(step, results)
    if done.returncode:
        report.fail(f"{step} failed, see above")


if __name__ == "__main__":
    main()
