"""Qwen2VL against transformers: names and shapes of whole models, numbers of small ones."""

import json

import numpy as np
import pytest
import torch
from tests.multimodal import qwen2_vl_models as models

from paragone.multimodal._qwen2_vl_config import KINDS, PRESETS, Qwen2VLConfig
from paragone.multimodal._qwen2_vl_files import renamed
from paragone.multimodal.qwen2_vl import Qwen2VL
from paragone.multimodal.qwen2_vl_image_processor import Qwen2VLImageProcessor

pytestmark = [
    pytest.mark.peers,
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning"),
]

TEXTS = [
    (5, 6, 7, 8),
    ((1, 4, 6), 9),
    (3, (1, 2, 2), 4, 5, (1, 8, 4), (1, 6, 10)),
    (3, 4, (1, 12, 2), 80, (1, 4, 4), 11, 12, (1, 6, 6), 13),
]


def peer_config(raw: dict):
    """The peer's configuration of a published file's content."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    kinds = {"qwen2_vl": "Qwen2VLConfig", "qwen2_5_vl": "Qwen2_5_VLConfig"}
    values = json.loads(json.dumps(raw))
    return getattr(transformers, kinds[raw["model_type"]])(**values)


def peer_class(kind: str):
    import transformers

    return getattr(transformers, KINDS[kind])


@pytest.fixture(scope="module", params=models.KINDS)
def both(request):
    raw = models.raw(request.param)
    config = peer_config(raw)
    config._attn_implementation = "eager"
    peer = peer_class(request.param)(config)
    peer.tie_weights()
    models.filled(peer)
    ours = Qwen2VL.from_config(raw).eval()
    ours.load_state_dict({renamed(name): x for name, x in peer.state_dict().items()})
    return peer.eval(), ours


def inputs(text: tuple, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor | None, list]:
    grids = [part for part in text if not isinstance(part, int)]
    values = models.pixels(grids, seed) if grids else None
    return torch.tensor([models.row(*text)]), values, grids


def for_peer(ids: torch.Tensor, values: torch.Tensor | None, grids: list) -> dict:
    found = {"input_ids": ids, "mm_token_type_ids": (ids == models.IMAGE).int()}
    if grids:
        found |= {"pixel_values": values, "image_grid_thw": torch.tensor(grids)}
    return found


def near(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """To 1e-5 of the largest number; the peer's angles are float32, ours float64."""
    assert found.shape == wanted.shape
    assert (found - wanted).abs().max() < 1e-5 * wanted.abs().max()


@pytest.mark.parametrize("name", list(PRESETS))
def test_whole_models_have_the_peers_names_and_shapes(name):
    config = Qwen2VLConfig.from_dict(PRESETS[name])
    raw = config.to_dict("bfloat16")
    peer_side = peer_config(raw)
    with torch.device("meta"):
        peer = peer_class(config.kind)(peer_side)
    wanted = {renamed(key): tuple(x.shape) for key, x in peer.state_dict().items()}
    assert len(wanted) == len(peer.state_dict())
    ours = Qwen2VL(config, device="meta")
    assert {key: tuple(x.shape) for key, x in ours.state_dict().items()} == wanted
    assert sum(p.numel() for p in ours.parameters()) == sum(p.numel() for p in peer.parameters())
    # What the file leaves out has the peer's values, and what the peer writes is read as the same.
    assert Qwen2VLConfig.from_dict(json.loads(peer_side.to_json_string())) == config
    text, vision = peer_side.text_config, peer_side.vision_config
    assert text.rope_parameters["mrope_section"] == [16, 24, 24]
    assert text.rope_parameters["rope_theta"] == config.text_config.rope_theta
    assert text.rms_norm_eps == config.text_config.rms_norm_eps
    assert vision.rope_parameters["rope_theta"] == config.vision_config.theta


@pytest.mark.parametrize("text", TEXTS, ids=["none", "one", "three-last", "three-between"])
def test_features_places_and_logits(both, text):
    peer, ours = both
    ids, values, grids = inputs(text)
    given = for_peer(ids, values, grids)
    with torch.no_grad():
        wanted = peer(**given).logits
        found = ours(ids, values, grids).logits
    assert wanted.std() > 0.5
    near(found, wanted)
    if not grids:
        return
    with torch.no_grad():
        seen = peer.model.get_image_features(values, given["image_grid_thw"]).pooler_output
        own = ours.features(values, grids)
    near(own, torch.cat(list(seen)))
    places, more = peer.model.get_rope_index(
        ids, given["mm_token_type_ids"], image_grid_thw=given["image_grid_thw"]
    )
    at, following = ours.places(ids, grids)
    assert torch.equal(at, places)
    assert torch.equal(following, more[:, 0] + ids.shape[1])


def test_films(both):
    peer, ours = both
    text = (3, (2, 4, 6), 4, (1, 2, 4), (3, 8, 4), 5)
    ids, values, grids = inputs(text)
    parts = values.split([t * h * w for t, h, w in grids])
    given = {
        "input_ids": ids, "image_grid_thw": torch.tensor(grids[1:2]), "pixel_values": parts[1],
        "mm_token_type_ids": (ids == models.IMAGE).int() + 2 * (ids == models.VIDEO).int(),
        "pixel_values_videos": torch.cat([parts[0], parts[2]]),
        "video_grid_thw": torch.tensor([grids[0], grids[2]]),
    }  # fmt: skip
    seconds = None
    if ours.config.kind == "qwen2_5_vl":
        seconds = [0.75, 1.0, 0.5]
        given["second_per_grid_ts"] = [0.75, 0.5]
    with torch.no_grad():
        wanted = peer(**given).logits
        found = ours(ids, values, grids, seconds=seconds).logits
    near(found, wanted)


@pytest.mark.parametrize("text", [TEXTS[0], TEXTS[2]], ids=["none", "three"])
def test_texts_that_follow(both, text):
    peer, ours = both
    ids, values, grids = inputs(text)
    with torch.no_grad():
        wanted = peer.generate(
            **for_peer(ids, values, grids), max_new_tokens=12, do_sample=False,
            eos_token_id=None, pad_token_id=0,
            suppress_tokens=[models.START, models.END, models.IMAGE, models.VIDEO],
        )[0, ids.shape[1] :]  # fmt: skip
    found = ours.generate(ids, values, grids, max_new_tokens=12, stop=())
    assert found == [wanted.tolist()]
    assert len(set(found[0])) > 1


@pytest.mark.parametrize("kind", models.KINDS)
def test_folders_are_read_by_either(kind, tmp_path):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    ours = models.small(kind)
    ours.save_pretrained(tmp_path / "ours")
    peer = getattr(transformers, KINDS[kind]).from_pretrained(tmp_path / "ours").eval()
    ids, values, grids = inputs(TEXTS[3])
    with torch.no_grad():
        wanted = ours(ids, values, grids).logits
        found = peer(**for_peer(ids, values, grids)).logits
    near(found, wanted)
    peer.save_pretrained(tmp_path / "theirs")
    again = Qwen2VL.from_pretrained(tmp_path / "theirs")
    assert again.config == ours.config
    for (name, one), other in zip(
        again.state_dict().items(), ours.state_dict().values(), strict=True
    ):
        assert torch.equal(one, other), name


SIZES = [(15, 29), (28, 28), (56, 56), (61, 83), (720, 1280), (97, 1000), (333, 222), (31, 2000)]


@pytest.mark.parametrize("bounds", [(3136, 12845056), (78400, 200704)], ids=["published", "small"])
def test_pictures(bounds):
    module = pytest.importorskip("transformers.models.qwen2_vl.image_processing_pil_qwen2_vl")
    low, high = bounds
    peer = module.Qwen2VLImageProcessorPil(size={"shortest_edge": low, "longest_edge": high})
    ours = Qwen2VLImageProcessor(min_pixels=low, max_pixels=high)
    for size in SIZES:
        image = models.drawn(*size)
        wanted = peer(images=[image], return_tensors="np")
        values, grids = ours([image])
        assert grids.tolist() == wanted["image_grid_thw"].tolist(), size
        np.testing.assert_array_equal(values.numpy(), wanted["pixel_values"], str(size))
        assert ours.grid(*size) == tuple(grids[0].tolist())
