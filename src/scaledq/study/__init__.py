"""Which runs answer which question, and what the paper saw."""
