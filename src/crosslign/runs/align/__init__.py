"""`crosslign align`: from a model and languages to an adapter and its evidence, by the commands that there are."""
