r"""Mobile attention: all heads share one key and one value, of a map made smaller first.

For head h at pixel n, with m over the pixels of the smaller map:

$$ o_{hn} = \sum_m \text{softmax}_m\Big(\frac{q_{hn}^\top k_m}{\sqrt D}\Big) v_m, \quad
   q = W_q B x, \quad k = W_k B (D_k * B x), \quad v = W_v B (D_v * B x), $$
$$ y = x + \gamma \odot W_o o . $$

As keys are shared, heads are nothing but more queries: one attention of $hN$ queries over M keys,
and no key is copied.

Cost: $N C h (D + E) + M C (2 k^2 + D + E)$ multiply-adds of the projections and of the filters
that make keys fewer, and $h N M (D + E)$ of the attention itself, which `count_macs` leaves out as
timm does; one key for all heads reads h times less memory. Its step in the lineage: MobileNetV4's
hybrid networks put it into the last stages, where maps are small.

References:
    Qin et al. (2024), "MobileNetV4", arXiv:2404.10518, section 3.2, eq. 1.
    Shazeer (2019), "Fast transformer decoding", arXiv:1911.02150, section 3 (one key and value).

Shapes: B batch, C channels, h heads, D key width, E value width, N = H W pixels.
"""

from __future__ import annotations

from torch import Tensor, nn
from torch.nn import functional

from paragone.vision._mobile_style import PLAIN, Style
from paragone.vision.blocks.layer_scale import LayerScale
from paragone.vision.blocks.stochastic_depth import StochasticDepth

__all__ = ["MobileAttention", "MultiQueryAttention"]


def _rows(x: Tensor, width: int) -> Tensor:
    """(B, n width, H, W) to (B, 1, H W n, width): a view, if channels lie last in memory."""
    return x.permute(0, 2, 3, 1).reshape(x.shape[0], 1, -1, width)


class MultiQueryAttention(nn.Module):
    """Attention over pixels with one key and one value for all heads, (B, C, H, W) to the same.

    Args:
        channels: C.
        heads: Number of heads h.
        head_width: Widths D of keys and E of values.
        kernel_size: Side of the filters that make the map of keys smaller.
        stride: How much smaller, along each side.
        style: Norms and padding.
    """

    def __init__(
        self, channels: int, *, heads: int = 4, head_width: int = 64, kernel_size: int = 3,
        stride: int = 1, style: Style = PLAIN,
    ) -> None:  # fmt: skip
        super().__init__()
        self.head_width = head_width
        self.query, self.key, self.value, self.output = (nn.Sequential() for _ in range(4))
        self.query.add_module("proj", style.conv(channels, heads * head_width))
        for part in (self.key, self.value):
            if stride > 1:
                part.add_module("down_conv", style.depthwise(channels, kernel_size, stride))
                part.add_module("norm", style.norm(channels, "none"))
            part.add_module("proj", style.conv(channels, head_width))
        self.output.add_module("proj", style.conv(heads * head_width, channels))

    def start(self) -> None:
        """Draws first weights that keep the variance of what passes, uniformly, in place."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                nn.init.xavier_uniform_(layer.weight)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, height, width = x.shape
        q, k, v = (_rows(part(x), self.head_width) for part in (self.query, self.key, self.value))
        o = functional.scaled_dot_product_attention(q, k, v)
        o = o.reshape(batch, height, width, -1).permute(0, 3, 1, 2)
        return self.output(o)


class MobileAttention(nn.Module):
    """Norm, attention, skip, on (B, C, H, W).

    Args:
        channels: C.
        heads: Number of heads h.
        head_width: Widths of keys and values.
        kernel_size: Side of the filters that make the map of keys smaller.
        stride: How much smaller, along each side.
        drop_path: Rate of stochastic depth.
        style: Norms, padding, layer scale.
    """

    def __init__(
        self, channels: int, *, heads: int = 4, head_width: int = 64, kernel_size: int = 3,
        stride: int = 1, drop_path: float = 0.0, style: Style = PLAIN,
    ) -> None:  # fmt: skip
        super().__init__()
        self.norm = style.norm(channels, "none")
        self.attn = MultiQueryAttention(
            channels, heads=heads, head_width=head_width, kernel_size=kernel_size,
            stride=stride, style=style,
        )  # fmt: skip
        self.layer_scale = nn.Identity()
        if style.layer_scale is not None:
            self.layer_scale = LayerScale(channels, style.layer_scale, **style.where)
        self.drop_path = StochasticDepth(drop_path)

    def forward(self, x: Tensor) -> Tensor:
        return self.drop_path(self.layer_scale(self.attn(self.norm(x)))) + x
