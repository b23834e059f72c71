"""The pieces of the GPU check: each a function of its sizes that returns the figures of its row."""
