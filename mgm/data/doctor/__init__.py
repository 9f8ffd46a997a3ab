"""`python -m mgm.data.doctor`: checks training data before a run."""
