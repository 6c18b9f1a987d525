"""Token values: what the KL still to come is after each token that could have been drawn, as a mean-zero control.

For any g(prefix, v) the sum Σ_t [g(x_<t, x_t) − Σ_v q(v|x_<t) g(x_<t, v)] has mean zero, and the best g is the KL still
to come after v. Here g is bilinear, z'W e(v): z are numbers of the prefix, e(v) of the token, and only
d_t = e(x_t) − Σ_v q(v|x_<t) e(v) need be known. W is fitted on other folds than the one that it is subtracted from.
"""

from kullback.estimation.token_values.held import Held as Held
from kullback.estimation.token_values.subtraction import Controlled as Controlled
from kullback.estimation.token_values.subtraction import controlled as controlled
