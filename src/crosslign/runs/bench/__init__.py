"""`crosslign bench`: models x methods x seeds, a folder for each, and the tables out of them."""
