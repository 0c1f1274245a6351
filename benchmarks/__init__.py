"""Measurements: of the method on the testbed (claims, dpsw). Run as modules from the repository's root."""
