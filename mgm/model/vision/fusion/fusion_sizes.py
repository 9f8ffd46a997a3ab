"""`FusionSizes`: the sizes of tokens and maps that a fusion module is built for."""

from dataclasses import dataclass


@dataclass(frozen=True)
class FusionSizes:
    """Sizes of tokens and of the high-resolution maps that are used.

    Attributes:
        width: channels of a token, C.
        stage_widths: channels of each map, finest first.
        stage_windows: positions of each map per side of a token's window; 1 where a position covers
            several windows.
    """

    width: int
    stage_widths: tuple[int, ...]
    stage_windows: tuple[int, ...]

    @property
    def map_width(self) -> int:
        """Channels of all maps, H."""
        return sum(self.stage_widths)
