"""Watching a KL while it moves: bounds that hold at every look, alarms with a stated run length.

From the ground up: `moments` (what is remembered of a stream), `confidence` (bounds valid at all times), `detectors`
(when to raise an alarm), `reading` (one KL over the steps), `monitor`.
"""

from kullback.monitoring.monitor import KLMonitor
from kullback.monitoring.reading import Alarm

__all__ = ["Alarm", "KLMonitor"]
