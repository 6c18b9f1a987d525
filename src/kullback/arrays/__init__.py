"""The gate for arrays: what people have, read as numbers of one shape and looked at once.

`library` is the few things the array API standard leaves out; `columns` reads lists, ragged rows, None and masked
arrays; `masks` says what counts; `bounds` refuses numbers that cannot be right and says what they are instead.
"""

from kullback.arrays.bounds import (
    LOGPROBS,
    REF_LOGPROBS,
    REF_MASS,
    TOKEN_KL,
    Bounds,
    Look,
    check,
    check_all,
    extremes,
    place,
    wrong,
)
from kullback.arrays.columns import Column, aligned, column, nothing_hidden
from kullback.arrays.gate import read, refuse_absent
from kullback.arrays.groups import group_keys, group_numbers
from kullback.arrays.library import (
    A,
    Array,
    Elementwise,
    Float64,
    Groups,
    Namespace,
    Numbers,
    at_least_float32,
    can_look,
    check_shapes,
    cumulative_sum,
    equals,
    inner,
    is_jax,
    is_torch,
    namespace,
    stop_gradient,
    to_numpy,
)
from kullback.arrays.masks import check_mask, counted
from kullback.arrays.options import digits, fingerprint, number

__all__ = [
    "LOGPROBS",
    "REF_LOGPROBS",
    "REF_MASS",
    "TOKEN_KL",
    "A",
    "Array",
    "Bounds",
    "Column",
    "Elementwise",
    "Float64",
    "Groups",
    "Look",
    "Namespace",
    "Numbers",
    "aligned",
    "at_least_float32",
    "can_look",
    "check",
    "check_all",
    "check_mask",
    "check_shapes",
    "column",
    "counted",
    "cumulative_sum",
    "digits",
    "equals",
    "extremes",
    "fingerprint",
    "group_keys",
    "group_numbers",
    "inner",
    "is_jax",
    "is_torch",
    "namespace",
    "nothing_hidden",
    "number",
    "place",
    "read",
    "refuse_absent",
    "stop_gradient",
    "to_numpy",
    "wrong",
]
