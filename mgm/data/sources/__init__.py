"""Data sources of training: JSON, JSONL, parquet, data sets of the hub, WebDataset tars.

Terms: a *record* is raw content of a source: a JSON object, a row of a table, or the members of a
tar with one name. `parse_sample` parses it to a *sample*, a checked conversation with its images. A
*row* of a batch is one sequence of token ids: of one sample, or of several packed ones. An
*example* is a few-shot turn that a conversation template puts before the conversation.
"""
