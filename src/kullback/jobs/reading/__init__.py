"""Rows out of files and data sets, and the prompts and texts in them."""
