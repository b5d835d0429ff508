"""Building of TensorRT plans from ONNX graphs. Networks are strongly typed: the graph's types are the precision."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rsicrc.backends.tensorrt.library import Library, LogFunction, make_logger, one_line, paused_garbage_collection
from rsicrc.backends.tensorrt.profiles import Shapes
from rsicrc.errors import BackendError

_SECONDS_BETWEEN_LINES = 5.0


@paused_garbage_collection()
def build_plan(
    library: Library,
    graph: Path,
    shapes: Mapping[str, Shapes],
    *,
    capabilities: Sequence[str] = (),
    timings: bytes = b"",
    report: LogFunction = lambda line: None,
    library_log: LogFunction | None = None,
) -> tuple[bytes, bytes | None]:
    """Build the plan of a graph. A plan of `tensorrt` is for the current GPU.

    Args:
        library: The TensorRT library, from `open_library`.
        graph: The ONNX file.
        shapes: Minimum, typical and maximum shape of every variable input, from `Profile.shapes`.
        capabilities: Compute capabilities that a portable plan is for, from `library.capabilities`.
        timings: Measured times of kernels from an earlier build on the same GPU with the same library, or empty.
        report: Function that receives a line about the progress every few seconds.
        library_log: Function that receives the lines of TensorRT's own log; the log then describes the plan's layers.

    Returns:
        The plan, and the measured times for a later build. The times are None for a portable plan, whose kernels are
        timed on the GPU that runs them.

    Raises:
        BackendError: TensorRT does not accept the graph, or cannot build it.
    """
    trt = library.module
    logger = make_logger(library, library_log)
    builder = _builder(library, logger)
    # TensorRT 10 needs the flag; 11 and tensorrt_rtx only have strongly typed networks and accept the flag.
    network = builder.create_network(1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(str(graph)):
        raise BackendError(f"{graph}: {library.name} {library.version} does not accept it: {_parser_errors(parser)}")

    config = builder.create_builder_config()
    # Products of float32 are computed in float32: with TF32 the inputs are rounded to a 10-bit mantissa.
    config.clear_flag(trt.BuilderFlag.TF32)
    if library_log is not None:
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
    cache = None if library.is_portable else _open_cache(config, timings)

    plan = builder.build_serialized_network(network, config)
    if monitor.interrupted:
        raise KeyboardInterrupt
    if plan is None:
        raise BackendError(f"{graph}: {library.name} {library.version} cannot build it: {logger.reason}")
    return bytes(plan), None if cache is None else bytes(cache.serialize())


def _builder(library: Library, logger: Any) -> Any:
    try:
        return library.module.Builder(logger)
    except TypeError as error:  # the bindings raise TypeError for a null pointer
        raise BackendError(
            f"{library.name} {library.version} cannot start ({logger.reason}): it builds plans only on a machine with "
            "the GPU that they are for, and with its driver"
        ) from error


def _parser_errors(parser: Any) -> str:
    """Return the first error of the parser and its node; later errors follow from the first one."""
    if parser.num_errors == 0:
        return "it gave no reason"
    error = parser.get_error(0)
    node = f"{error.node_name()} ({error.node_operator()}): " if error.node_name() else ""
    return one_line(node + error.desc())


def _open_cache(config: Any, content: bytes) -> Any:
    """Set the timing cache of earlier builds, or an empty cache if the content is from another GPU or version."""
    cache = config.create_timing_cache(content) or config.create_timing_cache(b"")
    if not config.set_timing_cache(cache, False):
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _monitor(library: Library, title: str, report: LogFunction) -> Any:
    """Return a progress monitor that reports the current outermost phase every few seconds."""

    class Monitor(library.module.IProgressMonitor):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.steps: dict[str, int] = {}
            self.reported = time.monotonic()
            self.interrupted = False

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            if parent_phase is None:
                self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            # No other Python code runs during a build, so Ctrl-C is raised here; exceptions must not reach TensorRT.
            try:
                if phase_name in self.steps and time.monotonic() - self.reported > _SECONDS_BETWEEN_LINES:
                    self.reported = time.monotonic()
                    report(f"{title}: {phase_name}, step {step + 1} of {self.steps[phase_name]}")
            except KeyboardInterrupt:
                self.interrupted = True
            return not self.interrupted

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()
