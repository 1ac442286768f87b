r"""Rewrites of an exported network for answering alone: folding, fusing, packing.

A batch norm behind a convolution is a part of it once its statistics stand still:

$$ \gamma \frac{W x + b - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta
   = \Big(\frac{\gamma W}{\sqrt{\sigma^2 + \epsilon}}\Big) x
     + \frac{\gamma (b - \mu)}{\sqrt{\sigma^2 + \epsilon}} + \beta . $$

oneDNN then adds a shortcut and applies an activation while it writes the convolution's result, and
keeps weights in the order that its kernel for this size reads them in.

References:
    Jacob et al. (2018), arXiv:1712.05877, section 3.2 (folding of batch norm).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node
from torch.nn import functional

__all__ = ["fold", "fuse", "traced", "why_not_fused"]

aten = torch.ops.aten
_ACTS: dict[Any, tuple[str, list[float], str]] = {
    aten.relu.default: ("relu", [], ""),
    aten.silu.default: ("swish", [], ""),
    aten.hardswish.default: ("hardswish", [], ""),
    aten.hardsigmoid.default: ("hardsigmoid", [], ""),
    aten.sigmoid.default: ("sigmoid", [], ""),
    aten.gelu.default: ("gelu", [], "none"),
}


def _writes_over(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _out_of_place(graph: Graph) -> bool:
    """Replaces operations that write over what nobody else reads; says whether others are left."""
    left = False
    for node in filter(_writes_over, list(graph.nodes)):
        source, target = node.args[0], node.target
        maker = getattr(source.target, "_schema", None)
        fresh = maker is not None and all(r.alias_info is None for r in maker.returns)
        name = target.overloadpacket.__name__
        pure = getattr(aten, name[:-1], None)
        if fresh and len(source.users) == 1 and name.endswith("_") and pure is not None:
            node.target = getattr(pure, target._overloadname)
        else:
            left = True
    return left


def traced(model: nn.Module, example: Tensor) -> GraphModule:
    """Returns the network as a graph of torch's operations, for inputs of this shape."""
    program = torch.export.export(model, (example,))
    if _out_of_place(program.graph):
        program = program.run_decompositions({})
    module: Any = program.module()
    for node in list(module.graph.nodes):
        if node.op == "call_module" and not node.users:
            module.graph.erase_node(node)
        elif node.target is aten.dropout.default:
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
    module.recompile()
    return module


def _tensor(module: GraphModule, node: Any) -> Tensor | None:
    if node is None:
        return None
    found: Any = module
    for part in node.target.split("."):
        found = getattr(found, part)
    return found.detach()


def _held(module: GraphModule, before: Node, name: str, value: Tensor) -> Node:
    """Keeps a tensor in the module, and returns a node that reads it."""
    setattr(module, name, value)
    with module.graph.inserting_before(before):
        return module.graph.create_node("get_attr", name)


def _convolution(node: Any) -> dict[str, Any] | None:
    """Arguments of a two-dimensional convolution with constant weights, else None."""
    if not isinstance(node, Node) or node.target is not aten.conv2d.default:
        return None
    given: dict[str, Any] = {
        "x": None, "weight": None, "bias": None, "stride": 1, "padding": 0, "dilation": 1,
        "groups": 1,
    }  # fmt: skip
    given |= {**dict(zip(given, node.args, strict=False)), **node.kwargs}
    for name in ("stride", "padding", "dilation"):
        value = given[name]
        pair = [value] * 2 if isinstance(value, int) else list(value)
        given[name] = pair * 2 if len(pair) == 1 else pair
    constant = (given["weight"], given["bias"] or given["weight"])
    return given if all(n.op == "get_attr" for n in constant) else None


def fold(module: GraphModule) -> int:
    """Folds each batch norm into the convolution before it; returns how many."""
    folded = 0
    for node in list(module.graph.nodes):
        if node.target is not aten.batch_norm.default:
            continue
        source, *given = node.args
        convolution = _convolution(source)
        if convolution is None or len(source.users) != 1:
            continue
        gamma, beta, mean, var = (_tensor(module, n) for n in given[:4])
        weight, bias = (_tensor(module, convolution[name]) for name in ("weight", "bias"))
        assert weight is not None
        assert mean is not None
        assert var is not None
        scale = (var.double() + given[6]).rsqrt()
        scale = scale if gamma is None else scale * gamma
        offset = (0.0 if bias is None else bias.double()) - mean.double()
        offset = offset * scale + (0.0 if beta is None else beta.double())
        whole = weight.double() * scale[:, None, None, None]
        convolution |= {
            "weight": _held(module, node, f"folded_weight_{folded}", whole.to(weight.dtype)),
            "bias": _held(module, node, f"folded_bias_{folded}", offset.to(weight.dtype)),
        }
        with module.graph.inserting_before(node):
            new = module.graph.create_node(
                "call_function", aten.conv2d.default, tuple(convolution.values())
            )
        new.meta = dict(node.meta)
        node.replace_all_uses_with(new)
        module.graph.erase_node(node)
        module.graph.erase_node(source)
        folded += 1
    module.graph.eliminate_dead_code()
    module.recompile()
    return folded


def why_not_fused(example: Tensor) -> str | None:
    """Says why oneDNN cannot serve inputs like this one; None if it can."""
    if example.device.type != "cpu":
        return f"inputs are on {example.device.type}, and oneDNN serves the CPU"
    if example.dtype != torch.float32:
        return f"inputs are {example.dtype}, and oneDNN is used for float32 here"
    if not torch.backends.mkldnn.is_available():
        return "this build of torch has no oneDNN"
    return None


def _activation(node: Node) -> tuple[str, list[float], str] | None:
    """Returns the name that oneDNN has for an activation."""
    target: Any = node.target
    if target is aten.hardtanh.default:
        low, high = [*node.args[1:], -1.0, 1.0][:2] if len(node.args) > 2 else (-1.0, 1.0)
        return "hardtanh", [float(low), float(high)], ""  # pyright: ignore[reportArgumentType]
    if target is aten.relu6.default:
        return "hardtanh", [0.0, 6.0], ""
    if target is aten.gelu.default and (len(node.args) > 1 or node.kwargs):
        return None
    return _ACTS.get(target)


def _only_user(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def _dense(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution of maps of one pixel."""
    return functional.linear(x.flatten(1), weight, bias)[:, :, None, None]


def _shortcut(node: Node, last: Node) -> Node | None:
    """What `last`, a sum, adds to this convolution, if it has the same shape."""
    if last.target is not aten.add.Tensor or last.kwargs:
        return None
    others = [n for n in last.args if n is not node]
    if len(others) != 1 or not isinstance(others[0], Node) or _shape(others[0]) != _shape(node):
        return None
    return others[0]


def _pack(module: GraphModule, node: Node, given: dict[str, Any], index: int) -> None:
    weight = _tensor(module, given["weight"])
    assert weight is not None
    size = list(_shape(given["x"]))
    sizes = (given["padding"], given["stride"], given["dilation"], given["groups"])
    packed = torch.ops.mkldnn._reorder_convolution_weight(weight, *sizes, size)
    held = _held(module, node, f"packed_{index}", packed)
    options = (given["padding"], given["stride"], given["dilation"], given["groups"])
    user, last, end = _only_user(node), node, node
    other = _shortcut(node, user) if user is not None else None
    if other is not None and user is not None:
        end, after = user, _only_user(user)
        relu = after is not None and after.target is aten.relu.default
        end = after if relu and after is not None else end
        target = torch.ops.mkldnn._convolution_pointwise.binary
        act = ("relu", [], "") if relu else (None, [], None)
        arguments = (given["x"], other, held, given["bias"], *options, "add", 1.0, *act)
    else:
        act = _activation(user) if user is not None else None
        end = user if act is not None and user is not None else last
        target = torch.ops.mkldnn._convolution_pointwise.default
        arguments = (given["x"], held, given["bias"], *options, *(act or ("none", [], "")))
    with module.graph.inserting_before(end):
        new = module.graph.create_node("call_function", target, arguments)
    new.meta = dict(end.meta)
    end.replace_all_uses_with(new)


def fuse(module: GraphModule) -> int:
    """Gives each convolution to oneDNN with what follows it; returns how many."""
    fused = 0
    for node in list(module.graph.nodes):
        given = _convolution(node)
        if given is None:
            continue
        if _shape(given["x"])[2:] == (1, 1) == tuple(_shape(given["weight"])[2:]) and (
            given["groups"] == 1 and given["padding"] == [0, 0]
        ):
            weight = _tensor(module, given["weight"])
            assert weight is not None
            held = _held(module, node, f"dense_{fused}", weight.flatten(1).contiguous())
            with module.graph.inserting_before(node):
                new = module.graph.create_node(
                    "call_function", _dense, (given["x"], held, given["bias"])
                )
            new.meta = dict(node.meta)
            node.replace_all_uses_with(new)
        else:
            _pack(module, node, given, fused)
        fused += 1
    module.graph.eliminate_dead_code()
    module.recompile()
    return fused
