"""Query tables: reading, checking and mixing."""
