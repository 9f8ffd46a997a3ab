"""Order of samples: equal to the published one for a given seed, and reproducible."""

import pytest
import torch

from mgm.data.datasets.samplers import ModalitySampler, even_chunks, length_order, modality_order
from mgm.errors import MGMError
from tests.golden_files import golden_json


def cases():
    return golden_json("text/collator_samplers.json")["samplers"]


@pytest.mark.parametrize("index", range(4))
def test_orders_equal_published(index):
    case = cases()[index]
    sizes = case["batch_size"], case["world_size"]

    def seeded():
        return torch.Generator().manual_seed(case["torch_seed"])

    assert modality_order(case["lengths"], *sizes, seeded()) == case["modality_grouped"]
    lengths = [abs(length) for length in case["lengths"]]
    assert length_order(lengths, *sizes, seeded()) == case["length_grouped"]
    chunks = even_chunks(list(range(len(lengths))), lengths, case["world_size"])
    assert [sorted(chunk) for chunk in chunks] == case["even_chunks"]


@pytest.mark.parametrize("sign", [1, -1])
def test_single_modality_is_grouped_by_length(sign):
    lengths = [sign * length for length in (5, 3, 8, 1, 9, 2)]
    first, second = (
        order(lengths, 2, 1, torch.Generator().manual_seed(1))
        for order in (modality_order, length_order)
    )
    assert first == second
    assert sorted(first) == list(range(6))
    assert all(lengths[first[k]] >= lengths[first[k + 1]] for k in (0, 2, 4))


def test_text_only_batches_are_sorted_as_published():
    lengths = [-5, -3, -8, -1, -9, -2, -7, -4]
    # Computed by hand from the published algorithm, for two devices.
    expected = [5, 6, 2, 4, 3, 1, 7, 0]
    assert modality_order(lengths, 2, 2, torch.Generator().manual_seed(1)) == expected


def test_order_depends_only_on_seed_and_epoch():
    lengths = [*range(1, 20), *range(-20, 0)]
    sampler = ModalitySampler(lengths, batch_size=4, groups=1, seed=3)
    first = list(sampler)
    torch.rand(7)
    assert list(sampler) == first
    assert list(ModalitySampler(lengths, batch_size=4, groups=1, seed=3)) == first
    sampler.set_epoch(1)
    assert list(sampler) != first
    assert len(sampler) == len(first) == 39


def test_batches_hold_one_modality():
    lengths = [*range(1, 17), *range(-8, 0)]
    order = list(ModalitySampler(lengths, batch_size=4, groups=1, seed=0))
    # The last group of each kind is put at the end, and may be mixed.
    for start in range(0, 16, 4):
        assert len({lengths[index] > 0 for index in order[start : start + 4]}) == 1


def test_empty_sample():
    with pytest.raises(MGMError, match=r"data.json: sample 2 has no words; remove it"):
        ModalitySampler([3, -1, 0], batch_size=1, groups=1, seed=0, source="data.json")
