"""ONNX files made to do harm."""

from collections.abc import Callable
from typing import Any

from onnx import AttributeProto, ModelProto, TensorProto, helper

from tests.malicious.upload import Malicious


def graph_of(
    nodes: list[Any], weights: list[TensorProto] | None = None, shape: tuple[Any, ...] = ("n", 3, 16, 16), **model: Any
) -> ModelProto:
    """A network from `x` to `y`."""
    image = helper.make_tensor_value_info("x", TensorProto.FLOAT, list(shape))
    output = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [image], [output], weights or [])
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8, **model)


def node(kind: str, inputs: list[str], output: str = "y", **attributes: Any) -> Any:
    return helper.make_node(kind, inputs, [output], name=f"node_{output}", **attributes)


def ints(name: str, *values: int) -> TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [len(values)], values)


def claims(name: str, *dims: int) -> TensorProto:
    """A tensor that says it has this shape and holds nothing."""
    return TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims)


def external(location: str) -> TensorProto:
    made = claims("w", 4)
    made.data_location = TensorProto.EXTERNAL
    made.external_data.add(key="location", value=location)
    return made


def in_attribute(location: str) -> bytes:
    return graph_of([node("Constant", [], "w", value=external(location)), node("Add", ["x", "w"])]).SerializeToString()


def in_branch(location: str) -> bytes:
    inner = helper.make_graph([node("Identity", ["w"], "r")], "b", [], [helper.make_tensor_value_info("r", 1, None)])
    inner.initializer.append(external(location))
    return graph_of([node("If", ["c"], then_branch=inner, else_branch=inner)], [_yes()]).SerializeToString()


def _yes() -> TensorProto:
    return helper.make_tensor("c", TensorProto.BOOL, [], [True])


def nested(depth: int) -> bytes:
    """Length-delimited fields inside each other: an If whose branch holds an If, and so on."""
    inner = b""
    for _ in range(depth):
        attribute = b"\x0a\x01b" + _field(6, inner)
        inner = _field(1, b"\x22\x02If" + _field(5, attribute))
    return b"\x08\x08" + _field(7, inner) + b"\x42\x02\x10\x11"


def _field(number: int, content: bytes) -> bytes:
    size, length = len(content), b""
    while True:
        length += bytes([size & 127 | (128 if size > 127 else 0)])
        size >>= 7
        if not size:
            return bytes([number << 3 | 2]) + length + content


def recursive_functions() -> bytes:
    made = helper.make_function(
        "evil",
        "f",
        ["a"],
        ["b"],
        [helper.make_node("f", ["a"], ["b"], domain="evil")],
        [helper.make_opsetid("evil", 1)],
    )
    return graph_of([node("f", ["x"], domain="evil")], functions=[made]).SerializeToString()


def _on(name: str, build: Callable[[], bytes | ModelProto], code: str = "unsupported_onnx") -> Malicious:
    def content() -> bytes:
        made = build()
        return made if isinstance(made, bytes) else made.SerializeToString()

    return Malicious(name=f"onnx: {name}", purpose="model", build=content, code=code, arch="onnx")


def graphs() -> list[Malicious]:
    span, power = [_one("a", 0), _one("b", 1 << 50), _one("d", 1)], [_one("a", 10), _one("b", 1 << 62)]
    good = graph_of([node("Relu", ["x"])]).SerializeToString()
    strings = helper.make_tensor("w", TensorProto.STRING, [2], [b"a", b"b"])
    short = TensorProto(name="w", data_type=1, dims=[1000, 1000], raw_data=b"abcd")
    body = helper.make_graph([node("Identity", ["i"], "r")], "b", [], [helper.make_tensor_value_info("r", 1, None)])
    sparse = graph_of([node("Add", ["x", "w"])])
    sparse.graph.sparse_initializer.add(dims=[1 << 40]).values.CopyFrom(claims("w", 1))
    odd = graph_of([node("Relu", ["x"])])
    odd.graph.node[0].attribute.append(AttributeProto(name="a", type=AttributeProto.UNDEFINED))
    return [
        _on("absolute external data", lambda: graph_of([node("Add", ["x", "w"])], [external("/etc/passwd")])),
        _on("relative external data", lambda: graph_of([node("Add", ["x", "w"])], [external("../../etc/passwd")])),
        _on("external data beside it", lambda: graph_of([node("Add", ["x", "w"])], [external("model")])),
        _on("external data over a proc link", lambda: graph_of([node("Add", ["x", "w"])], [external("/proc/self/fd/0")])),
        _on("external data in an attribute", lambda: in_attribute("/etc/passwd")),
        _on("external data in a branch", lambda: in_branch("/etc/passwd")),
        _on("a cycle", lambda: graph_of([node("Add", ["x", "b"], "a"), node("Relu", ["a"], "b"), node("Relu", ["b"])])),
        _on("a node that reads itself", lambda: graph_of([node("Add", ["x", "y"])])),
        _on("an input of 2^40 pixels", lambda: graph_of([node("Relu", ["x"])], shape=("n", 3, 1 << 20, 1 << 20))),
        _on("a negative size", lambda: graph_of([node("Relu", ["x"])], shape=(1, 3, -16, 16))),
        _on("a shape of 2^60", lambda: graph_of([node("ConstantOfShape", ["w"], "z"), node("Add", ["x", "z"])], [ints("w", 1 << 60)])),
        _on("expansion", lambda: graph_of([node("Expand", ["x", "w"])], [ints("w", 1, 1 << 24, 3, 16, 16)])),
        _on("expansion step by step", lambda: doubling()),
        _on("a range of 2^50", lambda: graph_of([node("Range", ["a", "b", "d"], "z"), node("Add", ["x", "z"])], span)),
        _on("tiles", lambda: graph_of([node("Tile", ["x", "w"])], [ints("w", 1 << 20, 1 << 20, 1, 1)])),
        _on("padding of 2^40", lambda: graph_of([node("Pad", ["x", "w"])], [ints("w", 0, 0, 0, 0, 0, 0, 1 << 40, 0)])),
        _on("resizing by 10^6", lambda: graph_of([node("Resize", ["x", "", "s"])], [helper.make_tensor("s", 1, [4], [1, 1, 1e6, 1e6])])),
        _on("a constant power of ten billion digits", lambda: graph_of([node("Pow", ["a", "b"], "z"), node("Add", ["x", "z"])], power)),
        _on("nested 200 deep", lambda: nested(200)),
        _on("nested 20,000 deep", lambda: nested(20_000)),
        _on("an operator of its own", lambda: graph_of([node("Evil", ["x"], domain="evil.example")])),
        _on("a function that calls itself", recursive_functions),
        _on("weights that are only claimed", lambda: graph_of([node("Add", ["x", "w"])], [claims("w", 1 << 31)])),
        _on("weights of 2^62", lambda: graph_of([node("Add", ["x", "w"])], [claims("w", 1 << 31, 1 << 31)])),
        _on("fewer bytes than claimed", lambda: graph_of([node("Add", ["x", "w"])], [short])),
        _on("a million weights", lambda: good + _field(7, _field(5, b"\x08\x00\x10\x01") * 1_000_000)),
        _on("a million nodes", lambda: good + _field(7, _field(1, b"\x0a\x01y\x12\x01y\x22\x04Relu") * 1_000_000)),
        _on("a loop", lambda: graph_of([node("Loop", ["", "c"], body=body)], [_yes()])),
        _on("a branch", lambda: graph_of([node("If", ["c"], then_branch=body, else_branch=body)], [_yes()])),
        _on("text in tensors", lambda: graph_of([node("Add", ["x", "w"])], [strings])),
        _on("sparse weights", lambda: sparse),
        _on("an attribute without a type", lambda: odd),
        _on("no graph", lambda: b"\x08\x08\x42\x02\x10\x11"),
        _on("nonsense behind a good head", lambda: b"\x08\x08\x12\x07pytorch" + b"\xff" * 1000),
    ]  # fmt: skip


def _one(name: str, value: int) -> TensorProto:
    return helper.make_tensor(name, TensorProto.INT64, [], [value])


def doubling() -> ModelProto:
    """Sixty concatenations of a map with itself."""
    nodes = [node("Concat", [f"v{n}" if n else "x"] * 2, f"v{n + 1}", axis=1) for n in range(60)]
    return graph_of([*nodes, node("Relu", ["v60"])])
