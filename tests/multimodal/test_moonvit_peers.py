"""MoonViT against the tower of Kimi K2.5 in transformers (one frame), in its layout."""

import pytest
import torch

from paragone.multimodal import MoonViT

pytestmark = pytest.mark.peers


@pytest.fixture(scope="module")
def kimi():
    pytest.importorskip("transformers", reason="transformers is not installed")
    found = "transformers.models.kimi_k25"
    for part in ("modeling", "configuration"):
        pytest.importorskip(f"{found}.{part}_kimi_k25", reason="transformers has no kimi_k25")
    from transformers.models.kimi_k25 import configuration_kimi_k25, modeling_kimi_k25

    return configuration_kimi_k25.Kimi_K25VisionConfig, modeling_kimi_k25.Kimi_K25VisionModel


def test_features_and_merged_places_are_equal(kimi):
    make_config, make_model = kimi
    config = make_config(
        hidden_size=48, num_hidden_layers=2, num_attention_heads=3, intermediate_size=80,
        pos_emb_height=8, pos_emb_width=8,
    )  # fmt: skip
    theirs, source = make_model(config).eval(), torch.Generator().manual_seed(0)
    for weight in theirs.parameters():
        weight.data.normal_(std=0.15, generator=source)
    ours = MoonViT(config.to_dict())
    ours.load_state_dict(theirs.state_dict())
    grids = torch.tensor([[8, 8], [4, 6], [2, 10], [50, 2], [6, 18]])
    patches = torch.randn(int(grids.prod(1).sum()), 3, 14, 14, generator=source)
    with torch.no_grad():
        found = ours(patches, grids)
        times = torch.cat([torch.ones(5, 1, dtype=torch.int64), grids], 1)
        wanted = theirs(patches, times)
    torch.testing.assert_close(found, wanted.last_hidden_state, rtol=0, atol=1e-5)
    torch.testing.assert_close(ours.merged(found, grids), wanted.pooler_output, rtol=0, atol=1e-5)
