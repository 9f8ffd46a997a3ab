"""Starting programs, and the flags that choose a model."""
