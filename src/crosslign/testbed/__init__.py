"""A controlled experiment: a tiny language model with a real cross-lingual safety gap, in a world of known truth."""
