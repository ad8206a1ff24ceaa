"""Networks stored as ONNX files, run on one core: whoever wants more cores runs more processes."""

from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from onnxruntime import InferenceSession


@lru_cache
def network(path: Path) -> "InferenceSession":
    """A network on one thread, loaded once a process: the same input gives the same bits.

    Raises:
        ModuleNotFoundError: onnxruntime is not installed.
    """
    from onnxruntime import InferenceSession, SessionOptions

    options = SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.log_severity_level = 3
    return InferenceSession(path, options, providers=["CPUExecutionProvider"])
