"""Getting hold of a function by its name: imported, or taken out of its file where that is not possible.

Many trainers' KL functions are a few lines of torch in a module that imports a whole training stack. Such a
function is taken out of its file by its syntax tree, together with the helpers, constants and imports that it
uses, and nothing else of the file runs.
"""

from kullback.auditing.subject.source.binding import Located
from kullback.auditing.subject.source.extraction import take
from kullback.auditing.subject.source.location import locate, taken_out

__all__ = ["Located", "locate", "take", "taken_out"]
