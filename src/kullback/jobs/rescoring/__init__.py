"""Scoring the rows of a file under models: log-probs of one or both, and exact token KLs where both are given."""
