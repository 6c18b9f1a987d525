"""An answer from files of rollouts: which questions they can answer, one pass over their rows, what was found.

In the order of the journey: `questions` (which law against which), `columns` and `conditions` (what rows are told
apart by, and which count), `stream` (rows of all files, a few at a time), `tally` (what is summed up of a question),
`groups` (by step, by environment, by position), `outcome` and `pages` (what was found, and what is said of it),
`pairing` (two dumps side by side).
"""
