"""Whatever an estimator's parameters are set to, a fit ends in a fit or in one error that names one of them.

A table of values, and what hypothesis makes of it: several parameters together, and numbers and texts of its own.
"""

from __future__ import annotations

import decimal
import warnings
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings, strategies

from jaxgmm import GaussianMixture, Mixture, Status
from jaxgmm.families import SHELF

X = np.random.default_rng(0).normal(size=(60, 2)) + np.repeat([[0.0], [8.0]], 30, axis=0)

VALUES: dict[str, Any] = {
    "None": None,
    "True": True,
    "NumPy's False": np.bool_(False),
    "0": 0,
    "2": 2,
    "-1": -1,
    "2**40": 2**40,
    "2**70": 2**70,
    "0.5": 0.5,
    "2.0": 2.0,
    "-0.5": -0.5,
    "NaN": float("nan"),
    "infinity": float("inf"),
    "NumPy's 0.5": np.float32(0.5),
    "JAX's 2": jnp.int32(2),
    "JAX's 0.5": jnp.float32(0.5),
    "a decimal": decimal.Decimal("0.5"),
    "1j": 1j,
    "empty text": "",
    "yes": "yes",
    "a number as text": "2",
    "full": "full",
    "bytes": b"full",
    "an unknown sign": "\N{SNOWMAN}",
    "empty list": [],
    "list": [2, 3],
    "names": ["full", "diag"],
    "dict": {"a": 1},
    "object": object(),
    "class": GaussianMixture,
    "function": len,
    "zeros (2, 2)": np.zeros((2, 2)),
    "NaN (2, 2)": np.full((2, 2), np.nan),
    "ones (60, 2)": np.ones((60, 2)),
    "halves (60, 2)": np.full((60, 2), 0.5),
    "floats (60,)": np.zeros(60),
    "too many labels": np.arange(60) % 7,
    "texts": np.array(["a", "b"]),
    "objects": np.array([None, 1], object),
    "no JAX array": jnp.zeros((0,)),
    "masked": np.ma.masked_all(2),
    "date": np.datetime64("2020-01-01"),
    "Generator": np.random.default_rng(0),
    "key": jax.random.key(0),
    "keys": jax.random.split(jax.random.key(0), 2),
    "float16": np.float16,
    "status": Status.CONVERGED,
    "family": SHELF["diag"],
    "a family's class": type(SHELF["full"]),
    "mixture": Mixture.create([0.5, 0.5], np.zeros((2, 2)), np.ones(2), "spherical"),
    "cpu": "cpu",
    "gpu": "gpu",
}

NAMES = sorted(GaussianMixture().get_params())

SPOKEN = ("expected n_samples >= n_components", "some components have ill-defined empirical covariance")
"""What scikit-learn says of values that are valid, but not for these rows."""


def tried(**parameters: Any) -> bool:
    """Whether a fit with these parameters succeeds; if not, its error must name one of them."""
    model = GaussianMixture(**{"n_components": 2, "max_iter": 2, "random_state": 0, **parameters})
    repr(model)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            assert np.isfinite(model.fit(X).score(X))
    except (TypeError, ValueError) as error:
        text = str(error)
        assert any(name in text for name in parameters) or any(said in text.lower() for said in SPOKEN), text
        return False
    return True


@pytest.mark.parametrize("name", NAMES)
def test_each_parameter_is_heeded_or_refused_by_its_own_name(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    accepted = {of for of, value in VALUES.items() if tried(**{name: value})}
    capsys.readouterr()
    assert "object" not in accepted
    assert "yes" not in accepted
    assert accepted or name == "stopping"


@given(strategies.dictionaries(strategies.sampled_from(NAMES), strategies.sampled_from(sorted(VALUES)), min_size=2))
@settings(max_examples=120)
def test_parameters_together(capsys: pytest.CaptureFixture[str], chosen: dict[str, str]) -> None:
    assert tried(**{name: VALUES[of] for name, of in chosen.items()}) in (True, False)
    capsys.readouterr()


COMPILED_FOR_EACH = {"chunk_size", "n_components", "n_init"}
"""Numbers of which each is a program, or takes as long, of its own: the table has some."""


@given(
    name=strategies.sampled_from([name for name in NAMES if name not in COMPILED_FOR_EACH]),
    value=strategies.one_of(
        strategies.floats(),
        strategies.integers(-(2**70), 3),
        strategies.text(max_size=8),
        strategies.complex_numbers(),
        strategies.lists(strategies.one_of(strategies.floats(), strategies.text(max_size=2)), max_size=3),
        strategies.dictionaries(strategies.text(max_size=2), strategies.integers(), max_size=2),
        strategies.fractions(),
        strategies.dates(),
        strategies.binary(max_size=3),
    ),
)
@settings(max_examples=150)
def test_parameters_of_any_kind(capsys: pytest.CaptureFixture[str], name: str, value: Any) -> None:
    assert tried(**{name: value}) in (True, False)
    capsys.readouterr()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("n_components", [2, 3]),
        ("covariance_type", ["full", "diag"]),
        ("covariance_type", "round"),
        ("warm_start", "yes"),
        ("warm_start", 1),
        ("verbose", "loud"),
        ("verbose", -1),
        ("tol", None),
        ("dtype", "float"),
        ("dtype", "double precision"),
        ("n_init", 2**31),
        ("weights_init", ["a", "b"]),
        ("means_init", [[0.0, 1.0], [2.0]]),
        ("precisions_init", -np.ones((2, 2, 2))),
        ("init_params", np.zeros(3, int)),
        ("random_state", jnp.zeros((2, 2))),
        ("chunk_size", "large"),
        ("device", np.zeros(2)),
    ],
)
def test_what_used_to_pass_or_to_be_nameless(name: str, value: Any) -> None:
    accepted = name == "dtype" and value == "float"  # NumPy's float64
    assert tried(**{name: value}) == accepted


def test_parameters_that_are_set_later_are_checked_where_they_are_used() -> None:
    model = GaussianMixture(2, random_state=0).fit(X)
    for parameters, use in (
        ({"chunk_size": "large"}, lambda m: m.predict(X)),
        ({"chunk_size": 0}, lambda m: m.icl(X)),
        ({"random_state": "now"}, lambda m: m.sample()),
        ({"reg_covar": -1.0}, lambda m: m.partial_fit(X)),
        ({"n_components": 2.0}, lambda m: m.partial_fit(X)),
        ({"device": "moon"}, lambda m: m.sample()),
    ):
        before = model.get_params()
        with pytest.raises((TypeError, ValueError), match=next(iter(parameters))):
            use(model.set_params(**parameters))
        model.set_params(**before)
