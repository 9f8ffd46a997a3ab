"""Distributed training: FSDP2, DeepSpeed ZeRO, hostfiles, batch sizes, errors of processes."""
