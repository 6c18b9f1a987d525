"""Experiments that redo and extend what has been published on KL estimation: ``kullback lab``.

Each is a function that returns a frozen result with `to_dict()`, `tables()` and `chart()`.
"""

from kullback.lab.accuracy import Accuracies, Accuracy
from kullback.lab.categorical import categorical
from kullback.lab.coefficients import Coefficients, coefficients
from kullback.lab.gaussian import Gaussian, gaussian
from kullback.lab.gradients import Gradients, gradients
from kullback.lab.language import language
from kullback.lab.plan import Plan, plan
from kullback.lab.training import Training, training

__all__ = [
    "Accuracies",
    "Accuracy",
    "Coefficients",
    "Gaussian",
    "Gradients",
    "Plan",
    "Training",
    "categorical",
    "coefficients",
    "gaussian",
    "gradients",
    "language",
    "plan",
    "training",
]
