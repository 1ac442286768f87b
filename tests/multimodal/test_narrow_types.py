"""All three models under autocast, as `train_vl(precision="bf16")` runs them."""

import numpy as np
import pytest
import torch

from paragone._core.lazy import resolve
from paragone.language import Tokenizer
from paragone.multimodal import Document
from paragone.multimodal.contract import ARCHITECTURES


@pytest.mark.parametrize("arch", list(ARCHITECTURES))
@pytest.mark.filterwarnings("ignore:Mismatch dtype:UserWarning")
def test_losses_and_gradients_in_bfloat16_are_near_those_in_float32(arch):
    torch.manual_seed(0)
    model = resolve(ARCHITECTURES[arch][1]).from_config(
        "digits", tokenizer=Tokenizer.train([], 258)
    )
    model.eval()
    pixels = np.random.default_rng(0).integers(0, 256, (8, 8, 1), np.uint8)
    pages = [Document((pixels, "seven"), (False, True))]
    if model.draws:
        pages.append(Document(("a seven", pixels), (False, True)))
    found = []
    for narrow in (False, True):
        torch.manual_seed(1)
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
            total = model.losses(pages).total
        total.backward()
        slopes = [p.grad for p in model.parameters() if p.grad is not None]
        assert all(bool(g.isfinite().all()) for g in slopes)
        found.append((total.item(), torch.cat([g.flatten() for g in slopes])))
    (wide, far), (small, near) = found
    assert small == pytest.approx(wide, rel=0.03)
    assert torch.nn.functional.cosine_similarity(far, near, 0) > 0.98
