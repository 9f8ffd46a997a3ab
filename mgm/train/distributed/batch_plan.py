"""An optimizer step's samples, divided over devices and accumulated batches."""

from dataclasses import dataclass

from mgm.errors import MGMError


@dataclass(frozen=True)
class BatchPlan:
    """How many samples go where.

    Attributes:
        devices: processes that train.
        per_device: samples that one of them takes at once.
        accumulated: batches of each until the optimizer steps.
    """

    devices: int
    per_device: int
    accumulated: int

    @property
    def samples(self) -> int:
        """Samples of an optimizer step."""
        return self.devices * self.per_device * self.accumulated

    def __str__(self) -> str:
        return (
            f"{self.samples} samples a step = {self.devices} devices x {self.per_device} samples "
            f"x {self.accumulated} accumulated"
        )


def divide(samples: int, devices: int, at_most: int) -> BatchPlan:
    """Keep the samples of a step when the number of devices is another one.

    Args:
        samples: of an optimizer step.
        devices: that share them equally.
        at_most: samples that fit one device at once; as many as divide the rest are taken.

    Raises:
        MGMError: the devices cannot share them equally.
    """
    each, left = divmod(samples, devices)
    if left or not each:
        fitting = [count for count in range(1, devices + 1) if samples % count == 0]
        raise MGMError(
            f"--global_batch_size {samples} does not divide among {devices} devices; use "
            f"{fitting[-1]} of them, or another size"
        )
    per_device = max(count for count in range(1, min(at_most, each) + 1) if each % count == 0)
    return BatchPlan(devices, per_device, each // per_device)
