"""Models behind an HTTP server: what it can say is probed once, and the best of it is used."""
