"""Several processes: FSDP2, ZeRO-3, host files, and how batches divide among devices."""
