from .backends.arrays import DeviceArray as DeviceArray
from .decoding.options import CaptionOptions as CaptionOptions
from .engine import Engine as Engine
from .errors import (
    ArgumentError as ArgumentError,
    BackendError as BackendError,
    CheckpointError as CheckpointError,
    DataError as DataError,
    DeviceMemoryError as DeviceMemoryError,
    EmptySplitError as EmptySplitError,
    ExportError as ExportError,
    ImageError as ImageError,
    IndexFolderError as IndexFolderError,
    IndexWriteError as IndexWriteError,
    ModelFolderError as ModelFolderError,
    ModelNotFoundError as ModelNotFoundError,
    PairsError as PairsError,
    RsicrcError as RsicrcError,
    SceneError as SceneError,
)
from .evaluation.evaluate import EvaluationReport as EvaluationReport, evaluate as evaluate
from .index.hits import Hits as Hits
from .index.index import Index as Index
from .inputs.features import ImageFeatures as ImageFeatures
from .loading import load as load
from .manifest import Manifest as Manifest
from .results import (
    Caption as Caption,
    EncodedPair as EncodedPair,
    Explanation as Explanation,
    Hypothesis as Hypothesis,
    PairFailure as PairFailure,
)
from .scenes.options import SceneOptions as SceneOptions
from .scenes.scene import Scene as Scene
from .scenes.tile import SceneTile as SceneTile
from .text.vocabulary import Vocabulary as Vocabulary
from .timings import Timings as Timings

__version__: str
__all__: list[str]
