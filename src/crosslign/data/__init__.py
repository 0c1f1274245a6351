"""Query tables: reading, checking, mixing and collating."""
