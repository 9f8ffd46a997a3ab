"""Global batch size as devices x per-device batch size x gradient accumulation steps."""

from dataclasses import dataclass

from mgm.errors import MGMError


@dataclass(frozen=True)
class BatchPlan:
    """Batch sizes of a run.

    Attributes:
        devices: number of training processes.
        per_device: batch size of one of them.
        accumulated: gradient accumulation steps.
    """

    devices: int
    per_device: int
    accumulated: int

    @property
    def global_batch_size(self) -> int:
        """Samples per optimizer step."""
        return self.devices * self.per_device * self.accumulated

    def __str__(self) -> str:
        return (
            f"{self.global_batch_size} samples per step = {self.devices} devices x "
            f"{self.per_device} samples x {self.accumulated} accumulated"
        )


def plan_batches(global_batch_size: int, devices: int, max_per_device: int) -> BatchPlan:
    """Split a global batch size over devices and gradient accumulation steps.

    Args:
        global_batch_size: samples per optimizer step.
        devices: number of training processes.
        max_per_device: batch size that fits one device; the largest one that divides is chosen.

    Raises:
        MGMError: the devices cannot have equal shares.
    """
    share, remainder = divmod(global_batch_size, devices)
    if remainder or not share:
        divisors = [count for count in range(1, devices + 1) if global_batch_size % count == 0]
        raise MGMError(
            f"--global_batch_size {global_batch_size} is not divisible by {devices} devices; use "
            f"{divisors[-1]} of them, or another size"
        )
    sizes = range(1, min(max_per_device, share) + 1)
    per_device = max(size for size in sizes if share % size == 0)
    return BatchPlan(devices, per_device, share // per_device)
