"""From an ONNX graph to a TensorRT plan: strongly typed, so the graph's own types are the precision."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rsicrc.backends.tensorrt.library import Library, Report, make_logger, one_line
from rsicrc.backends.tensorrt.profiles import Shapes
from rsicrc.errors import BackendError
from rsicrc.files import replacing

_SECONDS_BETWEEN_LINES = 5.0


def build_plan(
    library: Library,
    graph: Path,
    shapes: Mapping[str, Shapes],
    *,
    capabilities: Sequence[str] = (),
    timing_cache: Path | None = None,
    report: Report = lambda line: None,
    listen: Callable[[str], None] | None = None,
) -> bytes:
    """Build the plan of a graph. With `tensorrt` it runs on the GPU that is selected.

    Args:
        library: from `open_library`.
        graph: the ONNX file.
        shapes: least, typical and largest shape of every input that varies, from `Profile.shapes`.
        capabilities: compute capabilities that a portable plan is for, of `library.capabilities`.
        timing_cache: a file that keeps how fast kernels were, for later builds on the same GPU with the same library.
            Portable plans are timed where they run, and use none.
        report: gets a line now and then.
        listen: gets TensorRT's own lines, and makes the plan tell of its layers.

    Raises:
        BackendError: TensorRT does not take the graph, or cannot build it.
        OSError: the timing cache cannot be written.
    """
    trt = library.module
    logger = make_logger(library, listen)
    builder = _builder(library, logger)
    # 10 needs to be asked for it; 11 and tensorrt_rtx know nothing else and accept the flag.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        raise BackendError(f"{graph}: {library.name} {library.version} does not take it: {_parser_errors(parser)}")

    config = builder.create_builder_config()
    # float32 means float32: without this, its products are rounded to TF32's ten bits.
    config.clear_flag(trt.BuilderFlag.TF32)
    if listen is not None:
        config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    if capabilities:
        config.num_compute_capabilities = len(capabilities)
        for index, capability in enumerate(capabilities):
            config.set_compute_capability(library.capability(capability), index)
    monitor = _monitor(library, graph.name, report)
    config.progress_monitor = monitor
    profile = builder.create_optimization_profile()
    for name, (least, typical, most) in shapes.items():
        profile.set_shape(name, least, typical, most)
    if config.add_optimization_profile(profile) < 0:
        raise BackendError(f"{graph}: {library.name} refuses the profile: {logger.reason}")
    cache = None if library.is_portable or timing_cache is None else _open_cache(config, timing_cache)

    plan = builder.build_serialized_network(network, config)
    if monitor.interrupted:
        raise KeyboardInterrupt
    if plan is None:
        raise BackendError(f"{graph}: {library.name} {library.version} cannot build it: {logger.reason}")
    if cache is not None and timing_cache is not None:
        with replacing(timing_cache) as temporary:
            temporary.write_bytes(bytes(cache.serialize()))
    return bytes(plan)


def _builder(library: Library, logger: Any) -> Any:
    try:
        return library.module.Builder(logger)
    except TypeError as error:  # the bindings' word for a null pointer
        raise BackendError(
            f"{library.name} {library.version} cannot start ({logger.reason}): it builds plans only on a machine with "
            "the GPU that they are for, and with its driver"
        ) from error


def _parser_errors(parser: Any) -> str:
    """What the first error of the parser says, and of which node; the others follow from it."""
    if parser.num_errors == 0:
        return "it gave no reason"
    error = parser.get_error(0)
    node = f"{error.node_name()} ({error.node_operator()}): " if error.node_name() else ""
    return one_line(node + error.desc())


def _open_cache(config: Any, path: Path) -> Any:
    """Give the builder the timing cache of earlier builds; one of another GPU or version is begun anew."""
    try:
        content = path.read_bytes()
    except OSError:
        content = b""
    cache = config.create_timing_cache(content) or config.create_timing_cache(b"")
    if not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _monitor(library: Library, title: str, report: Report) -> Any:
    """Return a progress monitor that reports the outermost phase that runs, every few seconds."""

    class Monitor(library.module.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}
            self.said = time.monotonic()
            self.interrupted = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            # The only Python that runs during a build, so Ctrl-C arrives here; an error must not go through TensorRT.
            try:
                if phase_name in self.steps and time.monotonic() - self.said > _SECONDS_BETWEEN_LINES:
                    self.said = time.monotonic()
                    report(f"{title}: {phase_name}, step {step + 1} of {self.steps[phase_name]}")
            except KeyboardInterrupt:
                self.interrupted = True
            return not self.interrupted

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()
