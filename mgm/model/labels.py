"""The value of labels that the loss leaves out, for all that makes or reads labels."""

IGNORE_INDEX = -100  # as `ignore_index` of `torch.nn.functional.cross_entropy`
