"""Following a run: its dumps as they are written, a line a step, alarms, trackers.

`following` finds new rows, `feeding` hands a step's rows to the monitor, `trackers` log, `job` walks.
"""

from kullback.jobs.watching.job import StepSeen, watch

__all__ = ["StepSeen", "watch"]
