"""Judges: what a completion is. One protocol, several ways."""
