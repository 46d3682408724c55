"""ONNX files read as data: the graph of a policy is a chain of layers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rwmdata.optional import optional_import
from rwmrl.layer_chain import Chain
from rwmrl.torchscript_file import operate

FIRST_BYTE = b"\x08"
"""An ONNX file begins with its version, field 1 of the message."""
SAME = {
    "Relu": "relu", "Tanh": "tanh", "Sigmoid": "sigmoid", "Selu": "selu", "Mish": "mish", "Elu": "elu", "Celu": "celu",
    "LeakyRelu": "leaky_relu", "Softplus": "softplus", "Gelu": "gelu", "Add": "add", "Sub": "sub", "Mul": "mul",
    "Div": "div", "MatMul": "matmul", "Identity": "alias", "Sqrt": "sqrt",
}  # fmt: skip
"""Operators and their names in torch."""
NUMBERS: dict[str, dict[str, object]] = {
    "Elu": {"alpha": 1.0}, "Celu": {"alpha": 1.0}, "LeakyRelu": {"alpha": 0.01}, "Gelu": {"approximate": "none"},
    "Selu": {"alpha": 1.6732632, "gamma": 1.0507010}, "Gemm": {"alpha": 1.0, "beta": 1.0, "transA": 0},
}  # fmt: skip
"""Attributes, which have to be the usual ones."""
TOLERANCE = 1e-6
Operator = tuple[str, list[str], str, dict[str, Any]]
"""Kind, names of the inputs, name of the output, attributes."""
RECURRENT = ("LSTM", "GRU", "RNN", "Loop", "Scan")


def is_onnx(path: Path) -> bool:
    """Whether a file may be ONNX: it begins as such files do."""
    with path.open("rb") as file:
        return file.read(1) == FIRST_BYTE


def read_onnx(path: Path) -> Chain:
    """Return what a graph does with an observation.

    Raises:
        ValueError: It does something that a policy here does not have: it is named.
        RwmError: The package onnx is missing.
    """
    with optional_import("ONNX files need the package onnx", extra="onnx"):
        import onnx
        from onnx import helper, numpy_helper
    try:
        # Weights beside the file would be read from any path that it names.
        graph = onnx.load(str(path), load_external_data=False).graph
        if any(t.data_location == onnx.TensorProto.EXTERNAL for t in graph.initializer):
            raise ValueError("its weights are in another file")
        known: dict[str, Any] = {t.name: torch.tensor(numpy_helper.to_array(t)) for t in graph.initializer}
        steps = []
        for node in graph.node:
            given = {a.name: helper.get_attribute_value(a) for a in node.attribute}
            if node.op_type == "Constant" and "value" in given:
                known[node.output[0]] = torch.tensor(numpy_helper.to_array(given["value"]))
            else:
                steps.append((node.op_type, list(node.input), node.output[0], given))
        inputs, outputs = [i.name for i in graph.input], [o.name for o in graph.output]
        return _followed(known, steps, [name for name in inputs if name not in known], outputs)
    except ValueError:
        raise
    except Exception as exc:  # Arbitrary bytes make the parser raise anything.
        raise ValueError(f"it is not a readable ONNX file: {type(exc).__name__}") from exc


def _followed(known: dict[str, Any], steps: list[Operator], inputs: list[str], outputs: list[str]) -> Chain:
    """Follow the operators, whose ``known`` inputs are numbers, from the observation to the actions."""
    if memory := [kind for kind, *_ in steps if kind in RECURRENT]:
        raise ValueError(f"it is recurrent ({memory[0]}): it keeps a state between steps")
    if len(inputs) != 1 or len(outputs) != 1:
        raise ValueError(f"it reads {', '.join(inputs[:4])} and gives {', '.join(outputs[:4])}, not one of each")
    known[inputs[0]] = Chain()
    for kind, needed, name, given in steps:
        known[name] = _result(kind, [known[part] for part in needed], given)
    result = known[outputs[0]]
    if not isinstance(result, Chain):
        raise ValueError("it does not return actions")
    return result


def _result(kind: str, arguments: list[Any], given: dict[str, Any]) -> Any:
    """Return the result of one operator with the attributes ``given``."""
    given = {key: value.decode() if isinstance(value, bytes) else value for key, value in given.items()}
    if kind == "Transpose" and isinstance(arguments[0], Tensor):
        return arguments[0].permute(*given["perm"])
    transposed = bool(given.pop("transB", 0)) if kind == "Gemm" else False
    usual = NUMBERS.get(kind, {})
    if other := {k: v for k, v in given.items() if k not in usual or not _equal(v, usual[k])}:
        raise ValueError(f"its {kind} has {', '.join(f'{k} {v}' for k, v in other.items())}")
    if kind == "Gemm" and isinstance(arguments[1], Tensor):
        weight = arguments[1] if transposed else arguments[1].t()
        return operate("linear", [arguments[0], weight, *arguments[2:]])
    if kind not in SAME:
        raise ValueError(f"its graph uses {kind}, which a policy here does not have")
    if kind in ("Add", "Mul") and isinstance(arguments[-1], Chain):
        arguments = arguments[::-1]
    return operate(SAME[kind], arguments)


def _equal(given: object, usual: object) -> bool:
    both_numbers = isinstance(given, int | float) and isinstance(usual, int | float)
    return abs(given - usual) < TOLERANCE if both_numbers else given == usual  # type: ignore[operator]
