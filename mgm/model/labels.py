"""`IGNORE_INDEX`: label of positions without a loss."""

IGNORE_INDEX = -100  # as `ignore_index` of `torch.nn.functional.cross_entropy`
