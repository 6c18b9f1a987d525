"""The right KL inside the loops that people run already: one file or folder a trainer, none of which holds a formula.

For all of them: `units` (what a trainer's coefficient multiplies), `options` (what the KL is to be), `terms` (what is
added to a micro-batch's loss) and `replacing` (how a trainer's own function is exchanged, where it offers no other way,
and put back).
"""
