"""Training in two stages: alignment of mining and projector, then instruction tuning."""

import logging

# peft imports bitsandbytes, if installed, which on a CPU logs advice about further packages.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
