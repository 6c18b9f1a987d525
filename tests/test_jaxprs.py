"""What the audit makes of traced JAX functions, operation by operation, is what JAX makes of them."""

import numpy as np
import pytest

jax = pytest.importorskip("jax")
jnp, lax = jax.numpy, jax.lax

from kullback.auditing.subject import jaxprs  # noqa: E402

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(3, 4)).astype(np.float32)
Y = RANDOM.normal(size=(3, 4)).astype(np.float32)
TOKENS = np.array([[0, 3, 1, 1], [2, 2, 7, -1], [3, 0, -5, 4]])
"""Some of them outside of the four that there are."""


def walk(x, y):
    return lax.scan(lambda total, row: (total + row[0] * row[1], total * row[0]), jnp.zeros(4, x.dtype), (x, y))


def walk_back(x, y):
    return lax.scan(lambda total, row: (jnp.tanh(total + row), total), y[0], x, reverse=True)


def no_steps(x, y):
    return lax.scan(lambda total, row: (total + row, total), y[0], x[:0])


def long_walk(x, y):
    rows = jnp.tile(x, (60, 1))
    return lax.scan(lambda total, row: (0.5 * total + row, None), y[0], rows)[0]


def by_index(x, y):
    return lax.fori_loop(0, 4, lambda t, total: total + x[:, t] * y[:, t], jnp.zeros(3))


def until(x, y):
    return lax.while_loop(lambda total: jnp.sum(total) < 20, lambda total: total + jnp.abs(x) + 1e-3 * y, jnp.abs(y))


def branch(x, y):
    return lax.cond(jnp.sum(x) > 0, jnp.add, jnp.subtract, x, y), lax.switch(9, [jnp.add, jnp.multiply], x, y)


def written(x, y):
    return lax.dynamic_update_slice(x, y[:2, :2], (2, 3)), x.at[jnp.array([0, 0, 2])].add(y), x.at[1].set(y[0])


def moved(x, y):
    return jnp.roll(x, 1, axis=1), lax.dynamic_slice(x, (1, 9), (2, 2)), lax.pad(y, y[0, 0], ((1, -1, 0), (-1, 2, 2)))


def taken(x, y):
    along = [jnp.take_along_axis(x, TOKENS, 1, mode=mode) for mode in ("fill", "clip")]
    return *along, jnp.take(y, TOKENS, axis=0, mode="fill"), y[:, jnp.array([0, 3, 3])], y[jnp.array([0, 2]), 1:3]


def multiplied(x, y):
    return x @ y.T, jnp.einsum("bt,bt->b", x, y), jnp.einsum("ab,cd->acbd", x, y), jnp.vdot(x, y)


def multiplied_by_rows(x, y):
    return jnp.einsum("bt,bv->btv", x, y), jax.vmap(jnp.outer)(x, y), jax.vmap(jnp.dot)(x, y)


def further(x, y):
    return jnp.argmax(x, 1), jnp.argmin(y, 0), jnp.split(x, 2, axis=1), jnp.fmod(x, y), jnp.exp2(x), jnp.sin(y)


def associative(x, y):
    return lax.associative_scan(jnp.add, x, axis=1), lax.associative_scan(jnp.multiply, y, axis=1, reverse=True)


def mapped(x, y):
    return lax.map(lambda pair: jnp.sum(pair[0] - pair[1]), (x, y))


EVERY = [
    walk,
    walk_back,
    no_steps,
    long_walk,
    by_index,
    branch,
    written,
    moved,
    taken,
    multiplied,
    multiplied_by_rows,
    further,
    associative,
    mapped,
]


def compiled(fn):
    """What JAX makes of it: as one program, which compiles in a tenth of the time of all its operations."""
    return jax.jit(fn)(X, Y)


def evaluated(fn, *arrays):
    return jaxprs.evaluate(jax.make_jaxpr(fn)(*arrays), list(arrays))


@pytest.mark.parametrize("fn", [*EVERY, until], ids=lambda fn: fn.__name__)
def test_the_result_is_jax_s(fn):
    wanted = jax.tree.leaves(compiled(fn))
    for found, want in zip(evaluated(fn, X, Y), wanted, strict=True):
        assert found.dtype == want.dtype
        np.testing.assert_allclose(found, want, rtol=2e-5, atol=1e-6)


@pytest.mark.parametrize("fn", EVERY, ids=lambda fn: fn.__name__)
def test_the_gradient_is_jax_s(fn):
    def total(x, y):
        leaves = jax.tree.leaves(fn(x, y))
        return sum(jnp.nansum(leaf * jnp.arange(1, leaf.size + 1).reshape(leaf.shape)) for leaf in leaves)

    gradient = jax.grad(total, argnums=(0, 1))
    for found, want in zip(evaluated(gradient, X, Y), compiled(gradient), strict=True):
        np.testing.assert_allclose(found, want, rtol=2e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
@pytest.mark.parametrize("fn", [multiplied, multiplied_by_rows, taken, written, walk_back], ids=lambda fn: fn.__name__)
def test_half_precision_is_jax_s(fn, dtype):
    """Products are rounded once, as XLA rounds them; NumPy's einsum refuses bfloat16."""
    x, y = X.astype(dtype), Y.astype(dtype)
    for found, want in zip(evaluated(fn, x, y), jax.tree.leaves(jax.jit(fn)(x, y)), strict=True):
        assert found.dtype == want.dtype
        found, want = (np.asarray(value, np.float32) for value in (found, want))
        np.testing.assert_allclose(found, want, rtol=2 * float(jnp.finfo(dtype).eps), atol=1e-6)


@pytest.mark.parametrize(("fn", "steps"), [(walk, 1), (long_walk, 0)], ids=["short", "long"])
def test_only_long_loops_are_compiled(fn, steps, monkeypatch):
    """A compilation for every shape made the audit of a scan take 8 seconds; step by step it is 2."""
    walked, scan = [], jaxprs.CONTROL["scan"]
    monkeypatch.setitem(jaxprs.CONTROL, "scan", lambda *given: walked.append(1) or scan(*given))
    evaluated(fn, X, Y)
    assert len(walked) == steps
