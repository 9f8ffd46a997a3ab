"""Files of JSON: a list of records, or one in each line."""
