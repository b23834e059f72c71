"""Data: sources of rows, cleaning, splits, packing, labels, shards, answers."""
