"""All that needs a GPU, in one command: the tests of tests/gpu, then latency and throughput against PyTorch.

    python benchmarks/gpu.py [--device cuda:0] [--model FOLDER] [--size CKPT] [--steps tests latency throughput]

`make test-gpu` calls it with the Python it is given. Nothing is installed or fetched: what is missing is skipped, with
a line that says what. One JSON file and one table are written to benchmarks/results, named after the device; steps that
were run before, on the same device and model, stay in them.
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
    from common.proof import Proof

ROOT = Path(__file__).resolve().parents[1]
NEEDED = {"numpy": "numpy", "PIL": "pillow", "tokenizers": "tokenizers"}
STEPS = ("tests", "latency", "throughput")
PRECISIONS = ("fp32", "fp16", "bf16", "int8")
TASKS = ("caption", "images", "texts", "encoder", "step")
CONTESTANTS = ("published", "pytorch", "pytorch-bf16", "compile-bf16", "graph-bf16", "huggingface", "onnx-plain")


def main() -> None:
    """Run the steps; the exit status is 1 if a test failed, or if there was nothing to test on."""
    if missing := [package for module, package in NEEDED.items() if find_spec(module) is None]:
        raise SystemExit(
            f"error: {', '.join(missing)} missing: {', '.join(NEEDED.values())} are the least that it takes"
        )
    arguments = parse()
    # The rooms, so that an installation is not needed; the processes that are started find them, too.
    rooms = [str(ROOT / room) for room in ("runtime", "train", "export", "benchmarks")]
    sys.path[:0] = rooms
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [*rooms, str(ROOT), os.environ.get("PYTHONPATH", "")]))

    from common import card
    from common.machine import device_name, slug
    from common.proof import Proof

    if card.is_card(arguments.device) and (problem := card.problem(arguments.device)):
        raise SystemExit(f"error: nothing was tested: {problem}")
    device = device_name(arguments.device, arguments.threads)
    folder = find_folder(arguments)
    proof = Proof.open(arguments.output or ROOT / "benchmarks" / "results" / f"gpu-{slug(device)}.json", device, folder)
    try:
        engines = present_engines(arguments.device, proof)
        for step in arguments.steps:
            if step == "tests":
                test(arguments, folder, proof)
            elif engines:
                benchmark(step, arguments, folder, engines, proof)
            proof.write()  # a run that a time limit ends keeps the steps before
    finally:
        proof.write()
        sys.stdout.write(proof.text() + "\n")
    if proof.failed:
        raise SystemExit(1)


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(
        description=(__doc__ or "").splitlines()[0], formatter_class=argparse.ArgumentDefaultsHelpFormatter
    )
    parser.add_argument("--device", default="cuda:0", help="the GPU; cpu rehearses on the processor")
    parser.add_argument("--size", default=str(ROOT / "examples" / "tiny.pt"), help="published, or a checkpoint")
    parser.add_argument("--model", type=Path, help="the folder exported from it; by default it is exported here")
    parser.add_argument("--steps", nargs="+", choices=STEPS, default=list(STEPS), help="what to do")
    parser.add_argument("--precisions", nargs="+", choices=PRECISIONS, default=list(PRECISIONS), help="to export")
    parser.add_argument("--contestants", nargs="+", choices=CONTESTANTS, default=list(CONTESTANTS), help="of PyTorch")
    parser.add_argument("--batches", type=int, default=1000, help="of the stress test")
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 8, 64], help="pairs at once, for throughput")
    parser.add_argument("--rounds", type=int, default=2, help="turns of every contestant")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long a cell is repeated in a turn")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)), help="of every library")
    parser.add_argument("--work", type=Path, default=ROOT / "runs" / "gpu", help="folder of the material")
    parser.add_argument("--output", type=Path, help="the JSON file; by default named after the device")
    return parser.parse_args()


def find_folder(arguments: argparse.Namespace) -> Path:
    """The model folder: the one that was given, or one made from the checkpoint where the exporter is here.

    Raises:
        SystemExit: neither is to be had.
    """
    from common import material
    from common.rounds import run_module

    if arguments.model is not None:
        return Path(arguments.model)
    work = material.place(arguments.work, arguments.size)
    variants = material.variants(arguments.precisions, arguments.device)
    folder = work / "-".join([material.FOLDER, *variants])
    words = ("--size", arguments.size, "--pairs", "0", "--export", str(folder), "--variants", *variants)
    try:
        run_module("common.material", str(work), *words, threads=arguments.threads)
    except SystemExit as error:
        raise SystemExit(
            "error: no model folder could be made here; make one elsewhere (`rsicrc-export examples/tiny.pt -o FOLDER "
            "--precision fp16 --precision bf16 --precision int8 --calibration DATA`) and name it: GPU_MODEL=FOLDER"
        ) from error
    return folder


def present_engines(device: str, proof: Proof) -> list[str]:
    """The engine's backends that are here; the others are noted."""
    from common import present

    found = present.backends(device)
    for name, reason in found.items():
        if reason:
            proof.skip(f"backend {name}: {reason}")
    engines = [name for name, reason in found.items() if not reason]
    if not engines:
        proof.fail("nothing was tested: no backend of the engine is here for this device")
    return engines


def test(arguments: argparse.Namespace, folder: Path, proof: Proof) -> None:
    """tests/gpu, in a process of its own."""
    if find_spec("pytest") is None:
        proof.skip("tests: pytest is not installed")
        return
    environment = {
        "RSICRC_GPU_MODEL": str(folder.resolve()),
        "RSICRC_GPU_DEVICE": arguments.device,
        "RSICRC_GPU_BATCHES": str(arguments.batches),
    }
    with tempfile.TemporaryDirectory() as place:
        report = Path(place) / "report.xml"
        words = ["-m", "gpu", "-p", "no:cacheprovider", "--durations", "5", "--junitxml", str(report)]
        command = [sys.executable, "-m", "pytest", str(ROOT / "tests" / "gpu"), "--rootdir", str(ROOT), *words]
        environment = {**os.environ, **environment}
        done = subprocess.run(command, env=environment, cwd=ROOT, stdout=sys.stderr, check=False)  # noqa: S603 - ours
        proof.add_tests(report, done.returncode)


def benchmark(step: str, arguments: argparse.Namespace, folder: Path, engines: list[str], proof: Proof) -> None:
    """latency.py or throughput.py, in a process of its own."""
    from common import present

    contestants = ["rsicrc", *arguments.contestants]
    if lacking := [name for name in ("torch", "open_clip") if find_spec(name) is None]:
        proof.skip(f"contestants of PyTorch: {', '.join(lacking)} not installed")
        contestants = ["rsicrc"]
    elif find_spec("transformers") is None:
        proof.skip("contestant huggingface: transformers is not installed")
        contestants = [name for name in contestants if name != "huggingface"]
    if find_spec("torch") is None or find_spec("onnx") is None:
        proof.skip(f"floors of {step}: torch measures the limits, onnx counts what the graphs cost")
    results = arguments.work / f"{step}.json"
    results.unlink(missing_ok=True)
    words = [
        *("--size", arguments.size, "--model", str(folder), "--device", arguments.device),
        *("--contestants", *contestants, "--backends", *engines),
        *("--precisions", *present.precisions(folder, arguments.device)),
        *("--rounds", str(arguments.rounds), "--seconds", str(arguments.seconds)),
        *("--threads", str(arguments.threads), "--work", str(arguments.work), "--json", str(results)),
        *("--tasks", *TASKS, "--beams", "1", "5"),
        *(("--batches", *map(str, arguments.sizes)) if step == "throughput" else ()),
    ]
    command = [sys.executable, str(ROOT / "benchmarks" / f"{step}.py"), *words]
    done = subprocess.run(command, stdout=subprocess.DEVNULL, check=False)  # noqa: S603 - our own
    if results.is_file():
        proof.add_results(step, results)
    if done.returncode:
        proof.fail(f"{step} failed, see above")


if __name__ == "__main__":
    main()
