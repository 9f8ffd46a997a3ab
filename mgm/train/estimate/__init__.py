"""What a run will take: memory, FLOPs, time."""
