"""What memory a run needs, from its configuration alone."""
