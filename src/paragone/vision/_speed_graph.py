r"""Rewrites of an exported network for answering alone: folding, fusing, packing.

A batch norm behind a convolution is a part of it once its statistics stand still:

$$ \gamma \frac{W x + b - \mu}{\sqrt{\sigma^2 + \epsilon}} + \beta
   = \Big(\frac{\gamma W}{\sqrt{\sigma^2 + \epsilon}}\Big) x
     + \frac{\gamma (b - \mu)}{\sqrt{\sigma^2 + \epsilon}} + \beta . $$

A shortcut and an activation are then applied while the convolution's result is written: in
convolutions of one pixel by a kernel of ours, in others by oneDNN, which keeps weights in the order
that its kernel for this size reads them in.

References:
    Jacob et al. (2018), arXiv:1712.05877, section 3.2 (folding of batch norm).
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Node

from paragone.kernels.backends import why_not
from paragone.vision.ops.answer.layers import Activate, Interleave, Pointwise, SqueezeExcite

__all__ = ["fold", "fuse", "traced", "why_not_fused"]

aten = torch.ops.aten
_ACTS: dict[Any, str] = {
    aten.relu.default: "relu",
    aten.relu6.default: "relu6",
    aten.silu.default: "silu",
    aten.hardswish.default: "hard_swish",
    aten.hardsigmoid.default: "hard_sigmoid",
    aten.sigmoid.default: "sigmoid",
}
_NAMES: dict[str, tuple[str, list[float], str]] = {
    "none": ("none", [], ""),
    "relu": ("relu", [], ""),
    "relu6": ("hardtanh", [0.0, 6.0], ""),
    "silu": ("swish", [], ""),
    "hard_swish": ("hardswish", [], ""),
    "hard_sigmoid": ("hardsigmoid", [], ""),
    "sigmoid": ("sigmoid", [], ""),
}
"""What oneDNN calls our activations."""


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
        elif node.op == "get_attr":
            node.meta["val"] = _tensor(module, node)
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
        node = module.graph.create_node("get_attr", name)
    node.meta["val"] = value
    return node


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
    """Says why fused operations cannot serve inputs like this one; None if they can."""
    if example.device.type != "cpu":
        return f"inputs are on {example.device.type}, and the fused operations serve the CPU"
    if example.dtype != torch.float32:
        return f"inputs are {example.dtype}, and the fused operations compute in float32"
    if not torch.backends.mkldnn.is_available():
        return "this build of torch has no oneDNN"
    return why_not("numba")


def _activation(node: Any) -> str | None:
    """Returns our name of an activation, None if it is none."""
    if not isinstance(node, Node):
        return None
    if node.target is aten.hardtanh.default:
        return "relu6" if tuple(node.args[1:]) in ((0, 6), (0.0, 6.0)) else None
    return _ACTS.get(node.target)


def _only_user(node: Node) -> Node | None:
    return next(iter(node.users)) if len(node.users) == 1 else None


def _shape(node: Any) -> tuple[int, ...]:
    return tuple(node.meta["val"].shape)


def _called(module: GraphModule, before: Node, name: str, layer: nn.Module, *given: Any) -> Node:
    """Adds a layer to the module, and returns a node that calls it."""
    module.add_submodule(name, layer)
    with module.graph.inserting_before(before):
        return module.graph.create_node("call_module", name, given)


def _replaced(old: Node, new: Node) -> None:
    new.meta = dict(old.meta)
    old.replace_all_uses_with(new)


def _shortcut(node: Node, last: Node | None) -> Node | None:
    """What `last`, a sum, adds to this convolution, if it has the same shape."""
    if last is None or last.target is not aten.add.Tensor or last.kwargs:
        return None
    others = [n for n in last.args if n is not node]
    if len(others) != 1 or not isinstance(others[0], Node) or _shape(others[0]) != _shape(node):
        return None
    return others[0]


def _constant(module: GraphModule, given: dict[str, Any]) -> tuple[Tensor, Tensor | None]:
    weight, bias = _tensor(module, given["weight"]), _tensor(module, given["bias"])
    assert weight is not None
    return weight, bias


def _is_pointwise(given: dict[str, Any]) -> bool:
    plain = given["groups"] == 1 and given["stride"] == [1, 1] and given["padding"] == [0, 0]
    return plain and _shape(given["weight"])[2:] == (1, 1)


def _squeeze(module: GraphModule, last: Node, index: int) -> bool:
    """Replaces x * gate(W2 act(W1 mean(x))) by one call, if x has no other reader."""
    if last.target is not aten.mul.Tensor or last.kwargs:
        return False
    x, gate = last.args
    if isinstance(x, Node) and _activation(x) in ("sigmoid", "hard_sigmoid"):
        x, gate = gate, x
    chain: list[Any] = [gate]
    for _ in range(4):
        chain.append(chain[-1].args[0] if isinstance(chain[-1], Node) else None)
    second, act, first, mean = (_convolution(chain[1]), chain[2], _convolution(chain[3]), chain[4])
    inside, outside = _activation(act), _activation(gate)
    if not isinstance(x, Node) or first is None or second is None:
        return False
    if inside is None or outside is None:
        return False
    if any(len(n.users) != 1 for n in chain) or set(x.users) != {last, mean}:
        return False
    if mean.target is not aten.mean.dim or mean.args[:1] != (x,) or mean.args[2:] != (True,):
        return False
    if sorted(d % 4 for d in mean.args[1]) != [2, 3] or not _fresh(x):
        return False
    if not _is_pointwise(first) or not _is_pointwise(second) or len(_shape(x)) != 4:
        return False
    (a, a_bias), (b, b_bias) = _constant(module, first), _constant(module, second)
    layer = SqueezeExcite((a.flatten(1), a_bias), (b.flatten(1), b_bias), (inside, outside))
    _replaced(last, _called(module, last, f"squeeze_{index}", layer, x))
    return True


def _fresh(node: Node) -> bool:
    """Whether a convolution made this map, perhaps with an activation: it is nobody's view."""
    return _convolution(node) is not None or (
        _activation(node) is not None and _convolution(node.args[0]) is not None
    )


def _fuse_pointwise(module: GraphModule, node: Node, given: dict[str, Any], index: int) -> None:
    weight, bias = _constant(module, given)
    end, inputs = node, [given["x"]]
    user = _only_user(node)
    other = _shortcut(node, user)
    if other is not None and user is not None:
        end, user = user, _only_user(user)
        inputs.append(other)
    activation = _activation(user)
    if activation is not None and user is not None:
        end = user
    layer = Pointwise(weight.flatten(1), bias, activation or "none")
    _replaced(end, _called(module, end, f"pointwise_{index}", layer, *inputs))


def _fuse_other(module: GraphModule, node: Node, given: dict[str, Any], index: int) -> None:
    weight, _ = _constant(module, given)
    options = (given["padding"], given["stride"], given["dilation"], given["groups"])
    packed = torch.ops.mkldnn._reorder_convolution_weight(
        weight, *options, list(_shape(given["x"]))
    )
    held = _held(module, node, f"packed_{index}", packed)
    user, end = _only_user(node), node
    other = _shortcut(node, user)
    activation = _activation(user)
    if other is not None and user is not None:
        end, after = user, _only_user(user)
        act: tuple[Any, ...] = (None, [], None)
        if after is not None and _activation(after) == "relu":
            end, act = after, ("relu", [], "")
        target = torch.ops.mkldnn._convolution_pointwise.binary
        arguments = (given["x"], other, held, given["bias"], *options, "add", 1.0, *act)
    else:
        if activation is not None and user is not None:
            end = user
        # OneDNN takes three times as long as we for an exponential.
        ours = activation in ("silu", "sigmoid")
        target = torch.ops.mkldnn._convolution_pointwise.default
        act = _NAMES["none" if ours or activation is None else activation]
        arguments = (given["x"], held, given["bias"], *options, *act)
    with module.graph.inserting_before(end):
        new = module.graph.create_node("call_function", target, arguments)
    if other is None and activation in ("silu", "sigmoid"):
        new = _called(module, end, f"activate_{index}", Activate(activation), new)
    _replaced(end, new)


def _interleave(module: GraphModule, node: Node, index: int) -> None:
    """Replaces the stacking of two maps (B, H, W, C) along a new last axis, laid flat."""
    if node.target is not aten.stack.default or len(node.args[0]) != 2:  # pyright: ignore
        return
    user, shape = _only_user(node), _shape(node)
    flat = user is not None and user.target in (aten.flatten.using_ints, aten.view.default)
    if user is None or not flat or len(shape) != 5 or node.args[1:] not in ((-1,), (4,)):
        return
    if _shape(user) == (*shape[:3], 2 * shape[3]):
        layer = Interleave()
        _replaced(user, _called(module, user, f"interleave_{index}", layer, *node.args[0]))  # pyright: ignore


def fuse(module: GraphModule) -> int:
    """Gives each convolution what follows it; returns how many there are."""
    for index, node in enumerate(list(module.graph.nodes)):
        _squeeze(module, node, index)
        _interleave(module, node, index)
    module.graph.eliminate_dead_code()
    fused = 0
    for node in list(module.graph.nodes):
        given = _convolution(node)
        if given is None:
            continue
        run = _fuse_pointwise if _is_pointwise(given) else _fuse_other
        run(module, node, given, fused)
        fused += 1
    for node in module.graph.find_nodes(op="call_function", target=aten.contiguous.default):
        readers = [n for n in node.users if str(n.target).startswith("pointwise_")]
        if len(readers) == len(node.users) and all(n.args[1:] == () for n in readers):
            # The kernel reads every second half of a map as well.
            node.replace_all_uses_with(node.args[0])
    module.graph.eliminate_dead_code()
    module.recompile()
    return fused
