"""Faces: results as people read them. No formula lives here."""
