"""The network: its configuration, the two towers, patch info mining, loading and saving."""
