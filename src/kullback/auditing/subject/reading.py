"""What a function's code reads beside its parameters, so that a report can say what it leaves open."""

from __future__ import annotations

import dis
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from kullback.auditing.subject.memory import FOREIGN, Memory, memory_of

EXCHANGING = frozenset(
    {
        "all_reduce",
        "all_gather",
        "all_gather_into_tensor",
        "all_gather_object",
        "all_to_all",
        "reduce_scatter",
        "reduce_scatter_tensor",
        "is_initialized",
        "get_world_size",
        "get_rank",
        "process_count",
        "psum",
        "pmean",
    }
)
"""What functions call that speak with other processes."""

EXCHANGES = "what several processes exchange: it ran as one of one"
ASKED: dict[str, frozenset[str]] = {
    "what it does on a GPU: it asks for the device": frozenset(
        {"is_cuda", "is_available", "is_mps", "is_xla", "is_cpu", "current_device", "default_backend"}
    ),
    EXCHANGES: EXCHANGING,
    "other values of the environment variables that it reads": frozenset({"environ", "environb", "getenv"}),
    "what it does when it is compiled": frozenset({"is_compiling", "is_dynamo_compiling"}),
}
"""What is not examined of a function that asks for one of these names."""

SMALL = 8
"""Numbers up to which small worlds have as many rows, places, words and calls."""

KNOWN = frozenset({-100})
"""Further whole numbers that code compares with and worlds have: what padding has for a token."""

BETWEEN = frozenset({"PRECALL", "CACHE", "EXTENDED_ARG", "KW_NAMES", "PUSH_NULL"})
"""Instructions that say nothing of what a call or a comparison is of."""

EQUALS = frozenset({"eq", "ne", "equal", "not_equal", "isin"})
"""What asks for equality by its name."""

REACH = 200
"""Functions and objects that are looked at, of one function."""


@dataclass(frozen=True)
class Read:
    """What the code of a function and of its helpers reads.

    Attributes:
        unexamined: what an audit here leaves open because of it.
        switches: objects within its reach that have a training mode.
        globals: names of its module's own variables that are neither functions nor modules, and their values.
        keeps: whether it keeps something between calls that cannot be watched.
        memory: what it may keep something in; None where its code writes to nothing that outlives a call.
    """

    unexamined: tuple[str, ...] = ()
    switches: tuple[Any, ...] = ()
    globals: Mapping[str, object] = field(default_factory=dict)
    keeps: bool = False
    memory: Memory | None = None


def read_by(fn: object) -> Read:
    """Look at a function, at what it is bound to and closed over, and at the helpers of its own that it calls."""
    names: set[str] = set()
    numbers: set[int] = set()
    switches: dict[int, Any] = {}
    variables: dict[str, object] = {}
    keeps = stores = False
    reached = list(_reached(fn))
    for found in reached:
        if isinstance(found, FunctionType):
            names |= _names(found.__code__)
            numbers |= _singled_out(found.__code__, found.__globals__)
            variables |= _variables(found)
            held = {str(place): value for place, value in enumerate(found.__defaults__ or ())}
            stores = stores or _stores(found.__code__) or _holds(held)
        elif hasattr(found, "cache_info"):
            keeps = True
        elif isinstance(getattr(found, "training", None), bool) and not isinstance(found, type):
            switches[id(found)] = found
    unexamined = [said for said, asked in ASKED.items() if names & asked]
    by_device = "device" in names and "type" in names
    if by_device and (gpu := next(iter(ASKED))) not in unexamined:
        unexamined.insert(0, gpu)
    if numbers:
        unexamined.append(
            f"what it does at the numbers that its code singles out: {', '.join(map(str, sorted(numbers)))}"
        )
    memory = memory_of(reached) if stores or _holds(variables) else None
    return Read(tuple(unexamined), tuple(switches.values()), variables, keeps, memory)


def _singled_out(code: CodeType, variables: Mapping[str, object]) -> set[int]:
    """Whole numbers that code asks equality with or the remainder by, and that small worlds hardly have."""
    found: set[int] = set()
    steps = [step for step in dis.get_instructions(code) if step.opname not in BETWEEN]
    by_name = bool(EQUALS & set(code.co_names))
    for further, before, step in zip([None, *steps], steps, steps[1:], strict=False):
        equal = step.opname == "COMPARE_OP" and step.argval in ("==", "!=")
        if equal or step.opname == "CONTAINS_OP" or (step.opname == "BINARY_OP" and step.argrepr == "%"):
            found |= _constants(before, variables)
            # On the left hand, where the right one is a variable.
            found |= _constants(further, variables) if equal and further and before.opname.startswith("LOAD") else set()
        elif by_name and step.opname.startswith("CALL"):
            found |= _constants(before, variables)
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return found.union(*(_singled_out(one, variables) for one in inner))


def _constants(step: dis.Instruction, variables: Mapping[str, object]) -> set[int]:
    """The whole numbers that an instruction brings and small worlds do not have."""
    if step.opname not in ("LOAD_CONST", "LOAD_GLOBAL", "LOAD_SMALL_INT"):
        return set()
    value = variables.get(step.argval) if step.opname == "LOAD_GLOBAL" else step.argval
    several = value if isinstance(value, tuple | list | set | frozenset) else [value]
    return {one for one in several if type(one) is int and abs(one) > SMALL and one not in KNOWN}


OTHER_ARRAYS = ("jax", "numpy")
"""Libraries whose arrays a function may take in place of torch's."""


def other_arrays(fn: object) -> tuple[str, ...]:
    """Which of them the code of a function and of its helpers names."""
    named: set[str] = set()
    for found in _reached(fn):
        if isinstance(found, FunctionType):
            known = (found.__globals__.get(name) for name in _names(found.__code__))
            named |= {_root(one) for one in known}
    return tuple(library for library in OTHER_ARRAYS if library in named)


def _root(found: object) -> str:
    """The library that a module is, or that a function is of."""
    name = found.__name__ if isinstance(found, ModuleType) else getattr(found, "__module__", None)
    return name.partition(".")[0] if isinstance(name, str) else ""


def _stores(code: CodeType) -> bool:
    """Whether code writes to a variable that outlives its call."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    writes = (
        step.opname in ("STORE_GLOBAL", "STORE_ATTR")
        or (step.opname == "STORE_DEREF" and step.argval in code.co_freevars)
        for step in dis.get_instructions(code)
    )
    return any(writes) or any(map(_stores, inner))


def _holds(variables: Mapping[str, object]) -> bool:
    """Whether a variable is one that things can be put into."""
    return any(isinstance(value, dict | list | set) for value in variables.values())


def _reached(fn: object) -> Iterator[object]:
    """A function and what it reaches, each once."""
    waiting, seen = [fn], set[int]()
    while waiting and len(seen) < REACH:
        found = waiting.pop(0)
        if id(found) in seen:
            continue
        seen.add(id(found))
        yield found
        waiting += _within(found)


def _within(found: object) -> list[object]:
    """What one thing reaches at once."""
    if isinstance(found, partial):
        return [found.func, *found.args, *found.keywords.values()]
    if isinstance(found, MethodType):
        return [found.__func__, found.__self__]
    if isinstance(found, FunctionType):
        cells = [cell.cell_contents for cell in found.__closure__ or () if _filled(cell)]
        named = [found.__globals__[name] for name in _names(found.__code__) if name in found.__globals__]
        return [one for one in (*cells, *named, getattr(found, "__wrapped__", None)) if _own(one)]
    if isinstance(found, ModuleType | type | str | bytes | int | float | dict | list | tuple | set) or found is None:
        return []
    held = list(vars(found).values()) if hasattr(found, "__dict__") else []
    if (wrapped := getattr(found, "__wrapped__", None)) is not None:  # of functools.lru_cache
        return [wrapped]
    methods = [
        m for part in type(found).__mro__ if _own_type(part) for m in vars(part).values() if isinstance(m, FunctionType)
    ]
    return [one for one in (*methods, *held) if _own(one)]


def _own(found: object) -> bool:
    """Whether something may be somebody's own code or an object that has a mode."""
    if isinstance(found, ModuleType | type) or found is None:
        return False
    module = getattr(found, "__module__", None) or type(found).__module__ or ""
    return module.partition(".")[0] not in FOREIGN or isinstance(getattr(found, "training", None), bool)


def _own_type(part: type) -> bool:
    return part.__module__.partition(".")[0] not in FOREIGN


def _filled(cell: Any) -> bool:
    try:
        return cell.cell_contents is not None
    except ValueError:
        return False


def _names(code: CodeType) -> set[str]:
    """Names that code asks for, with those of the functions within it."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return {*code.co_names, *(name for one in inner for name in _names(one))}


def _variables(fn: FunctionType) -> dict[str, object]:
    """The variables of its module that a function reads: neither code, nor modules, nor types."""
    if (fn.__module__ or "").partition(".")[0] in FOREIGN:
        return {}
    found = {name: fn.__globals__[name] for name in _names(fn.__code__) if name in fn.__globals__}
    return {
        name: value
        for name, value in found.items()
        if not callable(value) and not isinstance(value, ModuleType) and not name.startswith("__")
    }
