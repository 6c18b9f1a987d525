"""Experiments that redo and extend what has been published on KL estimation: ``kullback lab``.

Each is a function that returns a frozen outcome with `to_dict()` and `document()`; `tables()` and `chart()` are parts
of the document.
"""

from kullback.lab.accuracy import Accuracies, Accuracy
from kullback.lab.categorical_worlds import categorical
from kullback.lab.coefficient_choice import Coefficients, coefficients
from kullback.lab.gaussian_tables import Gaussian, gaussian
from kullback.lab.gradient_bias import Gradients, gradients
from kullback.lab.language_models import language
from kullback.lab.sample_plan import Plan, plan
from kullback.lab.training_runs import Training, training
from kullback.lab.variance_worlds import Variances, variance

__all__ = [
    "Accuracies",
    "Accuracy",
    "Coefficients",
    "Gaussian",
    "Gradients",
    "Plan",
    "Training",
    "Variances",
    "categorical",
    "coefficients",
    "gaussian",
    "gradients",
    "language",
    "plan",
    "training",
    "variance",
]
