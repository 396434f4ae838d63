"""S as an ONNX file, run by ONNX Runtime: a second way to compute the same, for machines and programs without torch's speed or presence."""

import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from celladapt.errors import InputError, optional
from celladapt.networks import DEPTH, pad_to_multiple

HEADER = "celladapt"
"""Key of the metadata under which an ONNX file says, as JSON, what the header of a ``.safetensors`` file does."""
INPUT, OUTPUT = "image", "probability"


class OnnxNetwork(nn.Module):
    """S in a session of ONNX Runtime; it has no parameters and cannot be trained."""

    def __init__(self, session: Any) -> None:
        super().__init__()
        self.session = session

    def forward(self, x: Tensor) -> Tensor:
        """Normalised images [B, 3, H, W] of any size -> probability of nucleus [B, 1, H, W] float32 in [0, 1]."""
        h, w = x.shape[-2:]
        x = pad_to_multiple(x.detach().cpu().float(), 2**DEPTH).contiguous()
        (probability,) = self.session.run([OUTPUT], {INPUT: x.numpy()})
        return torch.from_numpy(probability)[..., :h, :w]


def open_onnx(path: Path) -> tuple[OnnxNetwork, dict[str, Any]]:
    """The network in a file of ``celladapt export``, and what its header says.

    Raises:
        InputError: missing, damaged, not a file of this package, or ONNX Runtime is not installed.
    """
    if not path.is_file():
        raise InputError(f"{path} does not exist; give a .onnx file of `celladapt export`.")
    runtime = optional("onnxruntime", f"Reading {path}", "export")
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()  # by itself it would take every core
    options.enable_cpu_mem_arena = False  # which would keep the memory of every size of image it has seen
    options.log_severity_level = 4  # what is wrong is said below, once
    try:
        session = runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        ends = [(end.name, end.type, len(end.shape)) for end in (*session.get_inputs(), *session.get_outputs())]
        if ends != [(INPUT, "tensor(float)", 4), (OUTPUT, "tensor(float)", 4)]:
            raise ValueError(f"it computes {', '.join(name for name, *_ in ends)}")
        about = json.loads(session.get_modelmeta().custom_metadata_map[HEADER])
    except KeyError:
        raise InputError(f"{path} is an ONNX file without celladapt's header; give one of `celladapt export`.") from None
    except Exception as error:  # ONNX Runtime's are of many private types
        reason = " ".join(str(error).split())[:200].rstrip(".")
        raise InputError(f"{path} is damaged or not a file of `celladapt export` ({reason}); export it again.") from None
    return OnnxNetwork(session), about
