"""Forward passes: which rows share one, their padding, and starts that many share."""
