"""Time of patch info mining, forward and backward, beside its published form.

    python benchmarks/mining.py [--threads 1] [--repeats 5] [--device cpu]

Both forms run alternately on the same maps; the ratio of their medians is what counts.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from mgm.model.mining import PatchInfoMining
from mgm.model.mining_reference import concatenated_map, published_mining

# images, tokens per side, token width, side of the finest map, channels of the stages
SIZES = {
    "nano, 16 images": (16, 12, 256, 96, (24, 48, 128, 256)),
    "336/768, 1 image": (1, 24, 1024, 192, (192, 384, 768, 1536)),
}


def measure(size: tuple, repeats: int, device: str) -> tuple[float, float]:
    """Median seconds of ours and of the published form."""
    images, grid, width, side, dims = size
    torch.manual_seed(0)
    mining = PatchInfoMining(width, dims).to(device)
    tokens = torch.randn(images, grid * grid, width, device=device, requires_grad=True)
    stages = [
        torch.randn(images, channels, side >> level, side >> level, device=device)
        for level, channels in enumerate(dims)
    ]

    def ours() -> None:
        mining(tokens, stages).sum().backward()

    def published() -> None:
        published_mining(mining, tokens, concatenated_map(stages)).sum().backward()

    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        for run, taken in zip((ours, published), times, strict=True):
            taken.append(_seconds(run, device))
    return statistics.median(times[0]), statistics.median(times[1])


def _seconds(run: Callable[[], None], device: str) -> float:
    if device == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    run()
    if device == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def main() -> None:
    """Measure every size and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for name, size in SIZES.items():
        ours, published = measure(size, arguments.repeats, arguments.device)
        print(f"{name}: {ours:.3f} s, published {published:.3f} s, {published / ours:.1f} times")


if __name__ == "__main__":
    main()
