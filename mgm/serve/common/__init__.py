"""Start-up of server programs, and the command-line options that choose a model."""
