"""Attribution: which image tokens an answer attended to, and which pixels these mined."""
