"""TorchScript programs read as data: the text of their code is followed step by step, nothing in them is run.

``torch.jit.load`` would run a program's own code; a policy's program is a chain of layers, which can be read instead.
"""

from __future__ import annotations

import ast
import io
import pickle
import pickletools
import re
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from rwmdata.checksums import claims_too_much
from rwmrl.layer_chain import Chain

FORWARD = "forward"
FUNCTION = re.compile(r"(torch|__torch__\.torch\.nn\.functional)\.\w+$")
"""Name of an operation."""
WITH_ROOM = ("BYTEARRAY8", "NEXT_BUFFER", "READONLY_BUFFER")
"""Operations of pickle that no program has."""
MOST_CALLS = 1000
"""Of methods; a program with more is not followed further."""
TYPES = {
    "FloatStorage": torch.float32, "DoubleStorage": torch.float64, "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16, "LongStorage": torch.int64, "IntStorage": torch.int32,
    "ShortStorage": torch.int16, "CharStorage": torch.int8, "ByteStorage": torch.uint8, "BoolStorage": torch.bool,
}  # fmt: skip
PLAIN = {  # Operations without further numbers, and our name of the activation.
    "relu": "relu", "tanh": "tanh", "sigmoid": "sigmoid", "selu": "selu", "silu": "swish", "mish": "mish",
}  # fmt: skip
WITH_NUMBERS: dict[str, tuple[str, tuple[Any, ...]]] = {
    "elu": ("elu", (1.0, 1, 1)), "celu": ("crelu", (1.0,)), "leaky_relu": ("lrelu", (0.01,)),
    "softplus": ("softplus", (1, 20)), "gelu": ("gelu", ("none",)),
}  # fmt: skip
"""Operations whose numbers have to be the usual ones."""
RECURRENT = re.compile(r"\b(LSTM|GRU|RNN|LSTMCell|GRUCell|lstm|gru|lstm_cell|gru_cell|rnn_tanh|rnn_relu)\b")


class Module:
    """An object of a program: its class and its attributes."""

    kind = ""

    def __init__(self, *_: object) -> None:
        self.attributes: dict[str, Any] = {}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.attributes = dict(state)


def read_torchscript(path: Path) -> Chain:
    """Return what the ``forward`` of a program does with an observation.

    Raises:
        ValueError: It does something that a policy here does not have: it is named.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            # The sizes are the archive's own word, but no more is unpacked.
            if claimed := claims_too_much(archive, path.stat().st_size):
                raise ValueError(f"it {claimed}")
            program = _Program(archive)
        result = program.call(program.root, FORWARD, [Chain()])
    except ValueError:
        raise
    except Exception as exc:  # Arbitrary bytes make the unpickler and the parser raise anything.
        raise ValueError(f"its program is damaged: {type(exc).__name__}") from exc
    if not isinstance(result, Chain):
        raise ValueError("it does not return actions")
    return result


class _Program:
    """The objects of an archive and the methods of their classes."""

    def __init__(self, archive: zipfile.ZipFile) -> None:
        self.archive, self.names = archive, {name.partition("/")[2]: name for name in archive.namelist()}
        self.classes: dict[str, dict[str, ast.FunctionDef]] = {}
        self.calls = 0
        for name in self.names:
            if name.startswith("code/") and name.endswith(".py"):
                self._parse(name)
        self.root = self._unpickle("data")
        self.constants = self._unpickle("constants") if "constants.pkl" in self.names else ()

    def _parse(self, name: str) -> None:
        module = name.removeprefix("code/").removesuffix(".py").replace("/", ".")
        text = self.archive.read(self.names[name]).decode()
        if memory := RECURRENT.search(text):
            raise ValueError(f"it is recurrent ({memory[1]}): it keeps a state between steps")
        tree = ast.parse(text)
        for part in tree.body:
            if isinstance(part, ast.ClassDef):
                methods = {f.name: f for f in part.body if isinstance(f, ast.FunctionDef)}
                self.classes[f"{module}.{part.name}"] = methods

    def _unpickle(self, name: str) -> Any:
        return _Reader(self, name).load()

    def call(self, module: object, method: str, arguments: list[Any]) -> Any:
        """Follow a method of an object, whose first argument it is."""
        if not isinstance(module, Module) or method not in self.classes.get(module.kind, {}):
            raise ValueError(f"it calls {method} of something unknown")
        self.calls += 1
        if self.calls > MOST_CALLS:
            raise ValueError("its program is longer than a policy's")
        function = self.classes[module.kind][method]
        names = dict(zip([a.arg for a in function.args.args], [module, *arguments], strict=False))
        for statement in function.body:
            if isinstance(statement, ast.Return) and statement.value is not None:
                return self.value(statement.value, names)
            if not isinstance(statement, ast.Assign) or not isinstance(statement.targets[0], ast.Name):
                line = ast.unparse(statement).splitlines()[0][:60]
                raise ValueError(f"its program has branches, loops or side effects ({line})")
            names[statement.targets[0].id] = self.value(statement.value, names)
        raise ValueError(f"{method} returns nothing")

    def value(self, node: ast.expr, names: dict[str, Any]) -> Any:
        """Return what an expression stands for."""
        match node:
            case ast.Constant():
                return node.value
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as number)):
                return -number
            case ast.Name() if node.id in names:
                return names[node.id]
            case ast.List() | ast.Tuple():
                return [self.value(part, names) for part in node.elts]
            case ast.Attribute(value=ast.Name(id="CONSTANTS")):
                return self.constants[int(node.attr.removeprefix("c"))]
            case ast.Attribute() if FUNCTION.match(ast.unparse(node)):
                return node.attr
            case ast.Attribute():
                return self.attribute(self.value(node.value, names), node.attr)
            case ast.Call():
                return self.result(node, names)
        raise ValueError(f"its program does what a policy here cannot: {ast.unparse(node)[:60]}")

    def result(self, node: ast.Call, names: dict[str, Any]) -> Any:
        """Return what a call gives."""
        match node.func:
            case ast.Name(id="getattr"):
                return self.attribute(*self.arguments(node, names))
            case ast.Name(id="annotate" | "unchecked_cast"):
                return self.value(node.args[-1], names)
            case ast.Attribute(value=of, attr=method) if not FUNCTION.match(ast.unparse(node.func)):
                if ast.unparse(node.func).startswith("ops."):
                    raise ValueError(f"its program uses {ast.unparse(node.func)}")
                return self.call(self.value(of, names), method, self.arguments(node, names))
        operation = self.value(node.func, names)
        if not isinstance(operation, str):
            raise ValueError(f"its program calls {ast.unparse(node.func)[:60]}")
        return operate(operation, self.arguments(node, names))

    def arguments(self, node: ast.Call, names: dict[str, Any]) -> list[Any]:
        """Return what a call is given, arguments with a name last."""
        return [self.value(part, names) for part in (*node.args, *(k.value for k in node.keywords))]

    def attribute(self, of: object, name: str) -> Any:
        """Return an attribute of one of the program's objects."""
        if not isinstance(of, Module) or name not in of.attributes:
            raise ValueError(f"its program asks for {name}, which is not there")
        return of.attributes[name]


def operate(name: str, arguments: list[Any]) -> Any:
    """Return an operation's result: a longer chain, or numbers where no observation is in it.

    Raises:
        ValueError: A policy here does not have the operation.
    """
    name = name.removesuffix("_")
    if not any(isinstance(a, Chain) for a in arguments):
        return _numbers(name, arguments)
    if name in ("add", "sub", "mul", "div"):
        arguments = [_vector(a) if isinstance(a, Tensor) else a for a in arguments]
    if name == "addmm" and len(arguments) == 3:
        bias, chain, weight = arguments
        return operate("linear", [chain, weight.t(), bias])
    chain, *rest = arguments
    given = tuple(v for v in rest if not isinstance(v, bool))  # Without the one that says "in place".
    if isinstance(chain, Chain) and name in PLAIN and not given:
        return chain.activated(PLAIN[name])
    if isinstance(chain, Chain) and name in WITH_NUMBERS:
        kind, usual = WITH_NUMBERS[name]
        if given != usual[: len(given)]:
            raise ValueError(f"its {name} has the numbers {given}, not {usual}")
        return chain.activated(kind)
    known = isinstance(chain, Chain) and name in STEPS and all(isinstance(v, PLAIN_ARGUMENTS) for v in rest)
    if not known:
        raise ValueError(f"it uses {name}, which a policy here does not have")
    try:
        return STEPS[name](chain, *rest)
    except TypeError as exc:
        raise ValueError(f"it uses {name} with other arguments than a policy's") from exc


def _vector(numbers: Tensor) -> Tensor:
    """Return one number or one row of numbers, which grow no table when they meet another one."""
    if numbers.numel() != max(numbers.shape, default=1):
        raise ValueError(f"it adds or multiplies numbers of shape {tuple(numbers.shape)}")
    return numbers.flatten() if numbers.dim() else numbers


def _rows(chain: Chain, dim: int, shape: list[int]) -> Chain:
    if dim not in (-1, 1):
        raise ValueError(f"it brings axis {dim} to another shape")
    return chain.shaped(shape)


def _row(chain: Chain, dim: int, number: int) -> Chain:
    if dim not in (-2, 1):
        raise ValueError(f"it selects from axis {dim}")
    return chain.row(number)


PLAIN_ARGUMENTS = (Tensor, bool, int, float, list, type(None))
STEPS: dict[str, Callable[..., Chain]] = {
    "linear": lambda chain, weight, bias=None: chain.linear(weight, bias),
    "matmul": lambda chain, weight: chain.linear(weight.t()),
    "add": lambda chain, by, alpha=1: chain.shifted(by * alpha),
    "sub": lambda chain, by, alpha=1: chain.shifted(-by * alpha),
    "mul": lambda chain, by: chain.scaled(by),
    "div": lambda chain, by: chain.scaled(1 / by),
    "slice": lambda chain, _axis=0: chain,
    "unflatten": _rows,
    "select": _row,
    **dict.fromkeys(("detach", "contiguous", "clone", "alias"), lambda chain: chain),
}
"""What the operations of a program make of a chain; ``slice`` without bounds leaves everything."""


def _numbers(name: str, arguments: list[Any]) -> Any:
    allowed: dict[str, Callable[..., Any]] = {
        "add": torch.add, "sub": torch.sub, "mul": torch.mul, "div": torch.div, "sqrt": torch.sqrt, "t": torch.t,
        "squeeze": torch.squeeze, "neg": torch.neg, "detach": torch.detach, "clone": torch.clone,
    }  # fmt: skip
    if name not in allowed or not arguments or not isinstance(arguments[0], Tensor):
        raise ValueError(f"its program uses {name}, which a policy here does not have")
    shapes = [a.shape for a in arguments if isinstance(a, Tensor)]
    if len(shapes) > 1 and torch.broadcast_shapes(*shapes).numel() > max(shape.numel() for shape in shapes):
        raise ValueError(f"its program makes more numbers than it has ({name})")
    return allowed[name](*arguments)


class _Reader(pickle.Unpickler):
    """Builds tensors and :class:`Module` objects; every other name in a file is refused."""

    def __init__(self, program: _Program, name: str) -> None:
        self.program, self.name = program, name
        content = program.archive.read(program.names[f"{name}.pkl"])
        # The reader makes room for what an operation claims before it looks whether that is there.
        for operation, argument, _ in pickletools.genops(content):
            if "PUT" in operation.name and int(argument or 0) > len(content):
                raise ValueError("its objects are numbered beyond their count")
            if operation.name in WITH_ROOM:
                raise ValueError(f"it holds a {operation.name}")
        super().__init__(io.BytesIO(content))

    def find_class(self, module: str, name: str) -> Any:
        """Return what stands for a name in the file."""
        if module == "__torch__" or module.startswith("__torch__."):
            return type("Module", (Module,), {"kind": f"{module}.{name}"})
        if module == "torch" and name in TYPES:
            return TYPES[name]
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuilt
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if module == "torch.jit._pickle":
            return list if name != "restore_type_tag" else lambda value, _: value
        raise ValueError(f"it holds {module}.{name}")

    def persistent_load(self, pid: Any) -> Tensor:
        """Return the storage of a tensor."""
        _, kind, key, _, count = pid
        content = self.program.archive.read(self.program.names[f"{self.name}/{key}"])
        if not count:
            return torch.empty(0, dtype=kind)
        return torch.frombuffer(bytearray(content), dtype=kind, count=count)


def _rebuilt(storage: Tensor, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: object) -> Tensor:
    if torch.Size(shape).numel() > storage.numel():
        raise ValueError("a tensor is larger than its content")
    return torch.as_strided(storage, shape, stride, offset)
