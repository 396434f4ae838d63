from . import methods as methods
from .adaptation import adapt as adapt
from .adaptation import resume as resume
from .benchmarking import Benchmark as Benchmark
from .benchmarking import benchmark as benchmark
from .config import Config as Config
from .data.check import check as check
from .demonstration import demo as demo
from .errors import InputError as InputError
from .evaluation import Evaluation as Evaluation
from .evaluation import evaluate as evaluate
from .expectation import expected_quality as expected_quality
from .exporting import export as export
from .importing import import_weights as import_weights
from .job import Written as Written
from .model import Model as Model
from .model import OnnxModel as OnnxModel
from .model import Prediction as Prediction
from .model import load_model as load_model
from .prediction import SomeFailed as SomeFailed
from .prediction import predict as predict
from .reporting import report as report
from .run import Run as Run
from .suggestion import suggest as suggest
from .worklist import Suggestions as Suggestions

__version__: str
