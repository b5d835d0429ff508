"""The backend `tensorrt` on a GPU, which runs TensorRT plans of the graphs of a model folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rsicrc.backends.arrays import DeviceArray
from rsicrc.backends.cuda import Stream
from rsicrc.backends.device import DeviceBackend
from rsicrc.backends.host_loop import ROWS
from rsicrc.backends.program import Tensors
from rsicrc.backends.tensorrt.library import Library, make_logger, one_line, paused_garbage_collection
from rsicrc.backends.tensorrt.plan_list import PlanFile
from rsicrc.errors import BackendError, DeviceMemoryError
from rsicrc.manifest import GraphSpec, Manifest

logger = logging.getLogger("rsicrc")


class TensorRtBackend(DeviceBackend):
    """The graphs of a model folder as TensorRT engines; see `rsicrc.backends.device.DeviceBackend`.

    Args:
        folder: The model folder.
        manifest: The manifest, at the requested precision.
        device: "cuda" or "cuda:N".
        threads: Number of threads that read images; None for as many as this process may use.
        library: The TensorRT library, from `open_library`.
        plans: Function from the title of a device to the plan files of all graphs, such as `plans.ensure_plans`. It is
            called once, while the GPU is the current device.

    Raises:
        BackendError: There is no driver or no such GPU, or plans cannot be built; the message has a remedy.
    """

    name = "tensorrt"

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        device: str,
        threads: int | None,
        library: Library,
        plans: Callable[[str], Mapping[str, PlanFile]],
    ) -> None:
        # The device is opened first: without a driver some builds of TensorRT return objects that crash.
        super().__init__(folder, manifest, device, threads)
        self.library = library
        self._plans = plans(self._device.title)
        self._logger = make_logger(library)
        try:
            with paused_garbage_collection():
                self._runtime = library.module.Runtime(self._logger)
        except (TypeError, RuntimeError) as error:  # the bindings raise TypeError for a null pointer
            reason = self._logger.reason if self._logger.errors else one_line(str(error))
            raise BackendError(f"{library.name} {library.version} cannot start on {self.device}: {reason}") from error

    def _open(self, graph: str) -> _Engine:
        plan = self._plans[graph]
        content = plan.read()
        with paused_garbage_collection():
            engine = self._runtime.deserialize_cuda_engine(content)
        if engine is None:
            raise _failure(
                self._logger, f"{plan.path}: {self.library.name} refuses this plan: remove {plan.path.parent}"
            )
        return _Engine(self.library, self._logger, graph, self._manifest.graphs[graph], engine)


class _Engine:
    """A loaded plan; see `rsicrc.backends.program.OpenedGraph`."""

    def __init__(self, library: Library, messages: Any, name: str, graph: GraphSpec, engine: Any) -> None:
        self.library, self.messages, self.name, self.graph, self.engine = library, messages, name, graph, engine
        variable = {
            each: spec for each, spec in graph.inputs.items() if any(isinstance(axis, str) for axis in spec.shape)
        }
        self.limits: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self.rows = (1, 1 << 62)
        for each, spec in variable.items():
            least, _, most = (tuple(dims) for dims in engine.get_tensor_profile_shape(each, 0))
            self.limits[each] = (least, most)
            if ROWS in spec.shape:
                axis = spec.shape.index(ROWS)
                self.rows = (least[axis], most[axis])
        host = library.module.TensorLocation.HOST
        names = (*graph.inputs, *graph.outputs)
        self.host_tensors = frozenset(each for each in names if engine.get_tensor_location(each) == host)

    def program(self, stream: Stream, *, capture: bool) -> _Program:
        """Create an execution context. TensorRT does not capture CUDA graphs by itself, so `capture` has no effect."""
        context = self.engine.create_execution_context(*self._settings())
        if context is None:
            raise DeviceMemoryError(
                f"no memory on the GPU for {self.name} ({self.messages.reason}): free some, or build a smaller profile"
            )
        return _Program(self, context, stream)

    def _settings(self) -> tuple[Any, ...]:
        """Return the configuration of `tensorrt_rtx`: kernels of a new size are compiled before its first run."""
        strategies = getattr(self.library.module, "DynamicShapesKernelSpecializationStrategy", None)
        if strategies is None:
            return ()
        config = self.engine.create_runtime_config()
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        return (config,)


class _Program:
    """An execution context; see `rsicrc.backends.program.Program`."""

    def __init__(self, engine: _Engine, context: Any, stream: Stream) -> None:
        self._engine, self._context, self._stream = engine, context, stream
        self._shapes: dict[str, tuple[int, ...]] = {}

    def bind(self, inputs: Tensors, outputs: Tensors) -> Callable[[], None]:
        """Set shapes and addresses. A later call replaces them, but does not change steps that are captured already."""
        shapes = {name: inputs[name].shape for name in self._engine.limits}
        if shapes != self._shapes:
            for name, shape in shapes.items():
                self._check(name, shape)
                if not self._context.set_input_shape(name, shape):
                    raise self._refused(name)
            self._shapes = shapes
        for name, tensor in (*inputs.items(), *outputs.items()):
            if not self._context.set_tensor_address(name, self._address(name, tensor)):
                raise self._refused(name)
        return self._enqueue

    def can_capture(self) -> bool:
        """Return True if no tensor is in host memory: a captured step would always use the value read at capture."""
        capturable = getattr(self._context, "is_stream_capturable", None)
        can_capture = not self._engine.host_tensors and (capturable is None or capturable(self._stream.handle))
        if not can_capture:
            logger.warning(
                "%s: this plan cannot be captured as a CUDA graph; steps are queued one by one", self._engine.name
            )
        return can_capture

    def _address(self, name: str, tensor: DeviceArray) -> int:
        if name not in self._engine.host_tensors:
            return tensor.address
        if not tensor.host:
            raise BackendError(f"the plan of {self._engine.name} reads {name} from host memory: build the plan again")
        return tensor.host

    def _check(self, name: str, shape: tuple[int, ...]) -> None:
        least, most = self._engine.limits[name]
        axes = self._engine.graph.inputs[name].shape
        for axis, size, low, high in zip(axes, shape, least, most, strict=True):
            if not low <= size <= high:
                raise BackendError(
                    f"the profile of {self._engine.name} takes {low} to {high} on axis {axis} of {name}, not {size}: "
                    "lower batch size or beams, or build a plan for another profile (`rsicrc-export --tensorrt "
                    "--profile …`)"
                )

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise _failure(self._engine.messages, f"graph {self._engine.name!r} failed in {self._engine.library.name}")

    def _refused(self, name: str) -> BackendError:
        return _failure(
            self._engine.messages, f"the plan of {self._engine.name} does not accept {name} as in the manifest"
        )


def _failure(messages: Any, text: str) -> BackendError:
    kind = DeviceMemoryError if "memory" in messages.reason.lower() else BackendError
    return kind(f"{text}: {messages.reason}")
