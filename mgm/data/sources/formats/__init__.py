"""Records as others write them: read into samples, whatever container they come from."""
