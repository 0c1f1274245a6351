"""Configuration -> a checked run -> objects, and what a run writes."""
