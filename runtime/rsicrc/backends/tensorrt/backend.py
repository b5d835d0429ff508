"""TensorRT on a GPU: `tensorrt` 10 and 11 or `tensorrt_rtx`, from the plans of the model folder."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rsicrc.backends.arrays import DeviceArray
from rsicrc.backends.cuda import Stream
from rsicrc.backends.device import DeviceBackend, Tensors
from rsicrc.backends.host_loop import ROWS
from rsicrc.backends.tensorrt.library import Library, make_logger, one_line
from rsicrc.errors import BackendError, DeviceMemoryError, ModelFolderError
from rsicrc.manifest import GraphSpec, Manifest

logger = logging.getLogger("rsicrc")


class TensorRtBackend(DeviceBackend):
    """The graphs of a model folder as TensorRT engines; see `rsicrc.backends.device.DeviceBackend`.

    Args:
        folder: the model folder.
        manifest: its manifest, at the precision that is wanted.
        device: "cuda" or "cuda:N".
        threads: threads that images are read with; None for as many as this process may use.
        library: from `open_library`.
        plans: gives the plan files of all graphs for a device's title, as `ensure_plans` in `plans` does. It is asked
            once, with the GPU selected.

    Raises:
        BackendError: no driver, no such GPU, or plans that cannot be built; says what to do.
    """

    name = "tensorrt"

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        device: str,
        threads: int | None,
        library: Library,
        plans: Callable[[str], Mapping[str, Path]],
    ) -> None:
        # The device first: without a driver some builds of TensorRT give objects that crash.
        super().__init__(folder, manifest, device, threads)
        self.library = library
        self._plans = plans(self._device.title)
        self._logger = make_logger(library)
        # Raises TypeError, the bindings' word for a null pointer.
        try:
            self._runtime = library.module.Runtime(self._logger)
        except (TypeError, RuntimeError) as error:
            reason = self._logger.reason if self._logger.errors else one_line(str(error))
            raise BackendError(f"{library.name} {library.version} cannot start on {self.device}: {reason}") from error

    def _open(self, graph: str) -> _Engine:
        path = self._plans[graph]
        try:
            engine = self._runtime.deserialize_cuda_engine(path.read_bytes())
        except OSError as error:
            raise ModelFolderError(f"{path}: cannot be read ({error}): remove {path.parent} and load again") from error
        if engine is None:
            raise _failure(
                self._logger, f"{path}: {self.library.name} refuses this plan: remove {path.parent} and load again"
            )
        return _Engine(self.library, self._logger, graph, self._manifest.graphs[graph], engine)


class _Engine:
    """A plan that was loaded."""

    def __init__(self, library: Library, messages: Any, name: str, graph: GraphSpec, engine: Any) -> None:
        self.library, self.messages, self.name, self.graph, self.engine = library, messages, name, graph, engine
        varying = {
            each: spec for each, spec in graph.inputs.items() if any(isinstance(axis, str) for axis in spec.shape)
        }
        self.limits: dict[str, tuple[tuple[int, ...], tuple[int, ...]]] = {}
        self.rows = (1, 1 << 62)
        for each, spec in varying.items():
            least, _, most = (tuple(dims) for dims in engine.get_tensor_profile_shape(each, 0))
            self.limits[each] = (least, most)
            if ROWS in spec.shape:
                axis = spec.shape.index(ROWS)
                self.rows = (least[axis], most[axis])
        at_host = library.module.TensorLocation.HOST
        names = (*graph.inputs, *graph.outputs)
        self.at_host = frozenset(each for each in names if engine.get_tensor_location(each) == at_host)

    def program(self, stream: Stream, *, records: bool) -> _Program:
        """Make an execution context. Its runs are recorded from outside."""
        context = self.engine.create_execution_context(*self._settings())
        if context is None:
            raise DeviceMemoryError(
                f"no memory on the GPU for {self.name} ({self.messages.reason}): free some, or build a smaller profile"
            )
        return _Program(self, context, stream)

    def _settings(self) -> tuple[Any, ...]:
        """What `tensorrt_rtx` wants to know: kernels are to be ready when a size is first run, not some time later."""
        strategies = getattr(self.library.module, "DynamicShapesKernelSpecializationStrategy", None)
        if strategies is None:
            return ()
        config = self.engine.create_runtime_config()
        config.dynamic_shapes_kernel_specialization_strategy = strategies.EAGER
        return (config,)


class _Program:
    """An execution context; see `rsicrc.backends.device.Program`."""

    def __init__(self, engine: _Engine, context: Any, stream: Stream) -> None:
        self._engine, self._context, self._stream = engine, context, stream
        self._shapes: dict[str, tuple[int, ...]] = {}

    def bind(self, inputs: Tensors, outputs: Tensors) -> Callable[[], None]:
        """Set shapes and addresses; a later call sets others, but leaves what was recorded as it was."""
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

    def is_recordable(self) -> bool:
        """Whether nothing is read from the host, whose value a recording would keep for ever."""
        capturable = getattr(self._context, "is_stream_capturable", None)
        recordable = not self._engine.at_host and (capturable is None or capturable(self._stream.handle))
        if not recordable:
            logger.warning(
                "%s: this plan cannot be recorded as a CUDA graph; steps are queued one by one", self._engine.name
            )
        return recordable

    def _address(self, name: str, tensor: DeviceArray) -> int:
        if name not in self._engine.at_host:
            return tensor.address
        if not tensor.host:
            raise BackendError(f"the plan of {self._engine.name} wants {name} on the host: build it again")
        return tensor.host

    def _check(self, name: str, shape: tuple[int, ...]) -> None:
        least, most = self._engine.limits[name]
        axes = self._engine.graph.inputs[name].shape
        for axis, size, low, high in zip(axes, shape, least, most, strict=True):
            if not low <= size <= high:
                raise BackendError(
                    f"the profile of {self._engine.name} takes {low} to {high} on axis {axis} of {name}, not {size}: "
                    "lower batch size or beams, or build another one (`rsicrc-export --tensorrt --profile …`)"
                )

    def _enqueue(self) -> None:
        if not self._context.execute_async_v3(self._stream.handle):
            raise _failure(self._engine.messages, f"graph {self._engine.name!r} failed in {self._engine.library.name}")

    def _refused(self, name: str) -> BackendError:
        return _failure(
            self._engine.messages, f"the plan of {self._engine.name} does not take {name} as the manifest says"
        )


def _failure(messages: Any, what: str) -> BackendError:
    kind = DeviceMemoryError if "memory" in messages.reason.lower() else BackendError
    return kind(f"{what}: {messages.reason}")
