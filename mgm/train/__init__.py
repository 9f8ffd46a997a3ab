"""Training in two stages: alignment of mining and projector, then instruction tuning."""

import logging

# Where it is installed, peft imports it with the Trainer, and it advises every CPU to install more.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
