"""The same message to the model before and after a run, side by side: in the terminal, and as a page."""
