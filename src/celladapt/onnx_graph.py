"""S written as an ONNX graph, layer by layer: no tracing, and only operators that every runtime has."""

import json
from typing import Any

import numpy as np
from torch import nn

from celladapt.data.normalise import Normalisation
from celladapt.errors import optional
from celladapt.networks import DoubleConv, Segmenter, folded
from celladapt.onnx_network import HEADER, INPUT, OUTPUT

OPSET, IR_VERSION = 17, 8
"""Of the year 2022, so that programs that carry an older runtime can read the file."""


def as_onnx(network: Segmenter, normalisation: Normalisation, about: dict[str, Any]) -> Any:
    """``network`` as an ``onnx.ModelProto``, batch normalisation folded away: ``image`` [N, 3, H, W], normalised -> ``probability`` [N, 1, H, W], float32.

    N is free, H and W are multiples of 16. Where the model does without colours, the graph takes the mean of the channels itself, as other
    programs have no step for that; of an image that is grey already it changes nothing.

    Args:
        network: on any device; left as it is.
        normalisation: of what comes in.
        about: the header that goes with it.

    Raises:
        InputError: onnx is not installed.
    """
    onnx = optional("onnx", "Export", "export")
    make = onnx.helper
    graph = _Graph(onnx)
    network = folded(network).float().cpu()
    x = graph.grey(INPUT, normalisation) if normalisation.grey else INPUT
    skips: list[str] = []
    for block in network.down:
        x = graph.block(graph.add("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2]) if skips else x, block)
        skips.append(x)
    skips.pop()
    for up, merge in zip(network.up, network.merge, strict=True):
        x = graph.block(graph.add("Concat", [skips.pop(), graph.convolution(x, up)], axis=1), merge)
    graph.add("Sigmoid", [graph.convolution(x, network.head)], OUTPUT)
    ends = [make.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n", channels, "h", "w"]) for name, channels in ((INPUT, 3), (OUTPUT, 1))]
    model = make.make_model(
        make.make_graph(graph.nodes, "celladapt", ends[:1], ends[1:], graph.weights),
        producer_name="celladapt",
        opset_imports=[make.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
    )
    make.set_model_props(model, {HEADER: json.dumps(about)})
    onnx.checker.check_model(model, full_check=True)
    return model


class _Graph:
    """Nodes and weights so far; every method gives the name of what it computes."""

    def __init__(self, onnx: Any) -> None:
        self.onnx = onnx
        self.nodes: list[Any] = []
        self.weights: list[Any] = []

    def add(self, kind: str, inputs: list[str], output: str = "", **attributes: Any) -> str:
        output = output or f"{kind.lower()}_{len(self.nodes)}"
        self.nodes.append(self.onnx.helper.make_node(kind, inputs, [output], name=output, **attributes))
        return output

    def weight(self, values: Any) -> str:
        name = f"weight_{len(self.weights)}"
        self.weights.append(self.onnx.numpy_helper.from_array(values, name))
        return name

    def convolution(self, x: str, layer: nn.Module) -> str:
        assert isinstance(layer, nn.Conv2d | nn.ConvTranspose2d)
        assert layer.bias is not None
        kind = "ConvTranspose" if isinstance(layer, nn.ConvTranspose2d) else "Conv"
        inputs = [x, *(self.weight(values.detach().contiguous().numpy()) for values in (layer.weight, layer.bias))]
        down, right = (int(p) for p in layer.padding)
        return self.add(kind, inputs, kernel_shape=list(layer.kernel_size), strides=list(layer.stride), pads=[down, right, down, right])

    def block(self, x: str, block: nn.Module) -> str:
        assert isinstance(block, DoubleConv)
        for layer in (block[0], block[3]):
            x = self.add("Relu", [self.convolution(x, layer)])
        return x

    def grey(self, x: str, normalisation: Normalisation) -> str:
        """The mean of the channels before they were normalised, normalised: a 1x1 convolution."""
        mean, std = (np.array(values, np.float32) for values in (normalisation.mean, normalisation.std))
        weight = (std[None, :] / (3 * std[:, None]))[..., None, None]
        return self.add("Conv", [x, self.weight(weight), self.weight((mean.mean() - mean) / std)], kernel_shape=[1, 1])
