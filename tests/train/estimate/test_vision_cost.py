"""Parameters and FLOPs of the vision side, against counts by hand."""

import pytest
from torch.utils.flop_counter import FlopCounterMode

from mgm.train.estimate.vision_cost import vision_cost
from tests.model.fusion_arms import ARMS
from tests.model.tiny import HD, random_images, tiny_config, tiny_model


@pytest.mark.parametrize("layout", [{}, HD], ids=["standard", "HD"])
@pytest.mark.parametrize("arm", ARMS)
def test_it_is_what_the_model_has_and_computes(arm: str, layout) -> None:
    config = tiny_config(fusion=ARMS[arm], **layout)
    cost = vision_cost(config)
    model = tiny_model(fusion=ARMS[arm], **layout)
    with FlopCounterMode(display=False) as counter:
        model.get_image_features(**random_images(config, 1))
    parts = {
        name: getattr(model, name)
        for name in ("vision_tower", "vision_tower_aux", "mining", "projector")
    }
    unused = {name for name, part in parts.items() if part is None}
    if not config.fusion.uses_low_resolution:
        unused.add("vision_tower")
    else:
        assert cost.flops == counter.get_total_flops()
    assert cost.parts.keys() == parts.keys() - unused
    for name, part in cost.parts.items():
        assert part.parameters == sum(p.numel() for p in parts[name].parameters())
        assert part.flops > 0
    assert cost.parameters == sum(part.parameters for part in cost.parts.values())


def test_projector_and_fusion_by_hand() -> None:
    """Two FLOPs for each weight and token; C is 16, H 40, the text width 24, N 16, P 64."""
    mining = vision_cost(tiny_config())
    assert mining.parts["projector"].flops == 2 * 16 * (16 * 24 + 24 * 24)
    assert mining.parts["mining"].parameters == (16 + 2 * 40) * 16 + 3 * 16 + 2 * (16 + 40 + 40)
    pool = vision_cost(tiny_config(fusion={"mode": "pool"})).parts["mining"]
    assert pool.parameters == 40 * 16 + 16 + 2 * 40
    one_query = vision_cost(tiny_config(fusion={"mode": "one_query"})).parts["mining"]
    assert one_query.parameters == mining.parts["mining"].parameters - 16 * 16 - 3 * 16 + 16
    # The query's projections of N tokens, and one absorbed query in place of N.
    saved = 2 * 16 * 16 * 16 + 2 * 15 * 16 * (40 + 1)
    assert one_query.flops == mining.parts["mining"].flops - saved
    fewer = vision_cost(tiny_config(fusion={"token_pooling": 2}))
    assert fewer.parts["projector"].flops * 4 == mining.parts["projector"].flops
    assert fewer.parts["vision_tower"] == mining.parts["vision_tower"]
