"""Samples: what every reader checks of them in the end."""

import pytest

from mgm.data.sources.sample import Sample, SampleError, checked_sample


@pytest.mark.parametrize("images", [(), ("a.png",)])
def test_a_system_text_has_no_image(images):
    """Its marker would take positions for which there is no image."""
    sample = Sample(((f"{'<image>' * len(images)}Q", "A"),), images, system="As in <image>.")
    with pytest.raises(SampleError, match="s: the system text has an <image> marker") as caught:
        checked_sample(sample, "s")
    assert caught.value.kind == "markers"
