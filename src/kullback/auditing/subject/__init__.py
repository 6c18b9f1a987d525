"""Getting hold of a function, handing it columns, and reading what it returns."""
