"""Data sources of training: JSON, parquet, data sets of the hub, tars; parsed and checked.

Words, each for one thing: a *record* is what a source holds, as it was read: a JSON object, a row
of a table, or the members of a tar with one name. `parse_sample` makes a *sample* of it, a checked
conversation with its images. A *row* of a batch is one sequence of token ids: a sample, or several
packed ones. An *example* is a turn that a chat template writes before the conversation.
"""
