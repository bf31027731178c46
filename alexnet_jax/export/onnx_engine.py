"""A network that onnxruntime computes instead of JAX: on a CPU the faster of the two in float32 (docs/speed.md)."""

from typing import TYPE_CHECKING

import numpy as np

from alexnet_jax import extras
from alexnet_jax.data.preprocess import Views
from alexnet_jax.errors import AlexNetError
from alexnet_jax.export import onnx_graph

if TYPE_CHECKING:
    from alexnet_jax.classifier import Classifier, Step


def onnxruntime(net: "Classifier", what: str, views: Views) -> "Step":
    """The engine of `net.using(engine=alexnet_jax.onnxruntime)`: on the CPU, in float32, one network of both towers.

    It keeps the weights that `net` has at its first call. Raises AlexNetError where ONNX cannot say what the network
    does, or has no node for the operation that is asked for, and without the package.
    """
    runtime = extras.module("onnxruntime", extra="export", what="engine=onnxruntime")
    extras.module("onnx", extra="export", what="engine=onnxruntime")
    if net.tower.compute_dtype != "float32":
        raise AlexNetError(f"precision={net.tower.compute_dtype!r} is of JAX alone: onnxruntime computes in float32.")
    operation = net._operations[what][0] if what in net._operations else onnx_graph.LOGITS
    operation = onnx_graph.LOGITS if operation == f"{net.tower.stack[-1].name}_out" else operation
    if operation.startswith("dropout"):  # its factor is in the weights of the layer after it
        raise AlexNetError(f"layer={what!r} is not a node in ONNX: use JAX for it.")
    model = onnx_graph.to_onnx(net, pixels="uint8", output=operation)
    session = runtime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    side = net.image_pixels

    def of_view(images: np.ndarray, top: int, left: int, mirrored: bool) -> np.ndarray:
        crops = images[:, top : top + side, left : left + side]
        (result,) = session.run([operation], {onnx_graph.IMAGES: crops[:, :, ::-1] if mirrored else crops})
        if what == "probabilities":
            result = np.exp(result - result.max(axis=-1, keepdims=True))
            return result / result.sum(axis=-1, keepdims=True)
        return result.transpose(0, 2, 3, 1) if result.ndim == 4 else result

    def step(batch: np.ndarray, compiled: int) -> np.ndarray:
        return np.mean([of_view(batch, *view) for view in views], axis=0)

    return step
