"""The right KL inside the loops that people run already: one file or folder a trainer, none of which holds a formula.

`units` (what a trainer's coefficient multiplies) is for all of them.
"""
