"""Where samples come from: JSON, parquet, data sets of the hub, shards; checked one by one."""
