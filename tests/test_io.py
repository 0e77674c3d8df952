"""Files of mixtures: what is loaded is what was saved, to the bit, and nothing else is loaded at all."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import os
import pickle

import jax
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Mixture, load, save
from jaxgmm._base.files import atomically
from jaxgmm.families import SHELF, Full
from tests.laws import KINDS

BOTH = pytest.mark.parametrize("dtype", ["float32", "float64"])
SHAPES = [(family, dtype, (3, 2)) for family in SHELF for dtype in ("float32", "float64")]
SHAPES += [(kind, dtype, shape) for kind in KINDS for dtype, shape in (("float64", (1, 1)), ("float32", (2, 5)))]


def example(family, dtype, shape=(3, 2), seed=0):
    rng = np.random.default_rng(seed)
    n_components, n_features = shape
    factor = rng.normal(size=(n_components, n_features, n_features))
    covariances = factor @ factor.swapaxes(1, 2) + np.eye(n_features)
    weights = rng.dirichlet(np.ones(n_components))
    return Mixture.create(weights, rng.normal(size=shape) * 1e3, covariances, family=family, dtype=dtype)


def assert_same_bits(one, other):
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        assert a.dtype == b.dtype
        assert np.asarray(a).tobytes() == np.asarray(b).tobytes()


def forged(about, arrays, version=1):
    """A file with a right checksum and any content."""
    payload = io.BytesIO()
    np.savez(payload, about=np.array(json.dumps(about)), **arrays)
    title = b"jaxgmm-mixture %04d\n" % version
    return title + hashlib.sha256(title + payload.getvalue()).digest() + payload.getvalue()


@pytest.mark.parametrize(("family", "dtype", "shape"), SHAPES, ids=str)
def test_a_mixture_comes_back_bit_for_bit(tmp_path, family, dtype, shape):
    mixture = example(family, dtype, shape)
    assert mixture.means.dtype == dtype  # float64 too, with JAX's switch off
    save(tmp_path / "m", mixture)
    loaded = load(tmp_path / "m")
    assert_same_bits(loaded, mixture)
    assert loaded.family == SHELF[family]
    x = np.random.default_rng(1).normal(size=(5, shape[1]))
    assert (np.asarray(loaded.log_prob(x)) == np.asarray(mixture.log_prob(x))).all()


def test_a_component_that_is_switched_off_stays_so(tmp_path):
    mixture = Mixture.create([1.0, 0.0], np.zeros((2, 2)), np.ones(2), family="spherical")
    save(tmp_path / "m", mixture)
    assert np.asarray(load(tmp_path / "m").log_weights).tolist() == [0.0, -np.inf]


def test_a_fit_can_be_kept(tmp_path, rng):
    result = jaxgmm.fit(jax.random.key(0), rng.normal(size=(60, 2)), 2, n_restarts=2, dtype="float64")
    save(tmp_path / "m", result.mixture)
    assert_same_bits(load(tmp_path / "m"), result.mixture)


def test_the_file_holds_every_field_of_a_mixture():
    """A new field would need a place in the file, and a new version of the format."""
    assert [field.name for field in dataclasses.fields(Mixture)] == ["log_weights", "means", "scales", "family"]


def test_settings_of_a_family_are_kept(tmp_path, monkeypatch):
    @jax.tree_util.register_static
    @dataclasses.dataclass(frozen=True)
    class Shrunken(Full):
        name: str = "shrunken"
        amount: float = 0.5

    monkeypatch.setitem(SHELF, "shrunken", Shrunken())
    mixture = dataclasses.replace(example("full", "float32"), family=Shrunken(amount=0.25))
    save(tmp_path / "m", mixture)
    assert load(tmp_path / "m").family == Shrunken(amount=0.25)
    monkeypatch.delitem(SHELF, "shrunken")
    with pytest.raises(ValueError, match=r"m holds a mixture of family 'shrunken', which this version"):
        load(tmp_path / "m")


def test_exactly_the_path_given_is_written_and_no_other(tmp_path):
    for name in ("model", "model.npz", "model.v1.jaxgmm"):
        folder = tmp_path / f"of-{name}"
        folder.mkdir()
        save(folder / name, example("full", "float32"))
        assert os.listdir(folder) == [name]
        save(str(folder / name), example("full", "float32", seed=1))
        assert os.listdir(folder) == [name]
        assert_same_bits(load(str(folder / name)), example("full", "float32", seed=1))


def test_a_link_is_followed(tmp_path):
    target, link = tmp_path / "target", tmp_path / "link"
    save(target, example("full", "float32"))
    link.symlink_to(target)
    save(link, example("full", "float32", seed=1))
    assert link.is_symlink()
    assert_same_bits(load(target), example("full", "float32", seed=1))


def test_a_file_is_as_readable_as_any_other(tmp_path):
    save(tmp_path / "m", example("full", "float32"))
    (tmp_path / "other").write_bytes(b"")
    assert (tmp_path / "m").stat().st_mode == (tmp_path / "other").stat().st_mode


@pytest.mark.parametrize("failure", [OSError("disk full"), KeyboardInterrupt()])
def test_a_write_that_fails_leaves_what_was_there(tmp_path, monkeypatch, failure):
    path = tmp_path / "m"
    save(path, example("full", "float32"))
    before = path.read_bytes()

    def fail(_):
        raise failure

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(type(failure)):
        save(path, example("full", "float32", seed=1))
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m"]


def test_what_is_synced_is_whole(tmp_path, monkeypatch):
    """The name changes hands only when all bytes are on their way to the disk, and follows them there."""
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(os.fstat(descriptor)))
    save(tmp_path / "m", example("full", "float32"))
    written, *folder = synced
    assert written.st_size == (tmp_path / "m").stat().st_size
    assert [entry.st_ino for entry in folder] == ([tmp_path.stat().st_ino] if os.name == "posix" else [])


def test_a_device_is_written_to_and_not_replaced():
    with atomically("/dev/null") as file:
        file.write(b"anything")
    assert not os.path.isfile("/dev/null")


def test_a_folder_is_refused(tmp_path):
    with pytest.raises(IsADirectoryError):
        save(tmp_path, example("full", "float32"))
    assert os.listdir(tmp_path) == []


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="nowhere"):
        load(tmp_path / "nowhere")


def test_every_flipped_byte_is_noticed(tmp_path):
    path = tmp_path / "m.jaxgmm"
    save(path, example("diag", "float32", (2, 2)))
    content = path.read_bytes()
    for position in range(len(content)):
        damaged = bytearray(content)
        damaged[position] ^= 0x01 if position % 2 else 0xFF
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=r"m\.jaxgmm"):
            load(path)


def test_every_truncation_and_addition_is_noticed(tmp_path):
    path = tmp_path / "m.jaxgmm"
    save(path, example("diag", "float32", (2, 2)))
    content = path.read_bytes()
    for size in range(len(content)):
        path.write_bytes(content[:size])
        with pytest.raises(ValueError, match=r"m\.jaxgmm"):
            load(path)
    path.write_bytes(content + b"\0")
    with pytest.raises(ValueError, match=r"m\.jaxgmm is damaged"):
        load(path)


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04", b"jaxgmm-mixture", b"jaxgmm-mixture 00x1\n", b"\0" * 4096])
def test_foreign_files_are_refused(tmp_path, content):
    path = tmp_path / "foreign"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"foreign is not a jaxgmm mixture"):
        load(path)


def test_foreign_archives_and_pickles_are_refused_unread(tmp_path):
    class Trap:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / "sprung"),)

    np.savez(tmp_path / "a.npz", means=np.zeros((2, 2)))
    (tmp_path / "b.pickle").write_bytes(pickle.dumps(Trap()))
    for name in ("a.npz", "b.pickle"):
        with pytest.raises(ValueError, match=f"{name} is not a jaxgmm mixture"):
            load(tmp_path / name)
    # Even under a right checksum an object array is not unpickled.
    payload = io.BytesIO()
    np.savez(payload, about=np.array([Trap()], dtype=object), allow_pickle=True)
    title = b"jaxgmm-mixture 0001\n"
    digest = hashlib.sha256(title + payload.getvalue()).digest()
    (tmp_path / "c").write_bytes(title + digest + payload.getvalue())
    with pytest.raises(ValueError, match="c is not a jaxgmm mixture: its content cannot be read"):
        load(tmp_path / "c")
    assert not (tmp_path / "sprung").exists()


def test_a_newer_format_says_so(tmp_path):
    (tmp_path / "m").write_bytes(forged({}, {}, version=2))
    with pytest.raises(ValueError, match=r"m has format 2, this version of jaxgmm .* reads up to 1"):
        load(tmp_path / "m")


GOOD = {
    "log_weights": np.log(np.full(2, 0.5, np.float32)),
    "means": np.zeros((2, 3), np.float32),
    "scales.factor": np.broadcast_to(np.eye(3, dtype=np.float32), (2, 3, 3)),
}
FULL = {"family": "full", "settings": {}}


def test_the_forged_file_is_good_before_it_is_spoilt(tmp_path):
    (tmp_path / "m").write_bytes(forged(FULL, GOOD))
    assert np.asarray(load(tmp_path / "m").weights).tolist() == [0.5, 0.5]


@pytest.mark.parametrize(
    ("about", "change", "message"),
    [
        ({}, {}, "content cannot be read"),
        ({"family": "full"}, {}, "content cannot be read"),
        ({"family": "VVV!", "settings": {}}, {}, "family 'VVV!'"),
        ({"family": "full", "settings": {"sharpness": 3}}, {}, "no usable mixture"),
        ({"family": "diag", "settings": {}}, {}, "expected the arrays"),
        (FULL, {"extra": np.zeros(1)}, "expected the arrays"),
        (FULL, {"means": np.zeros(3, np.float32)}, r"means \(K, D\)"),
        (FULL, {"means": np.zeros((2, 3), np.int32)}, "floating means"),
        (FULL, {"means": np.zeros((2, 4), np.float32)}, "expected scales.factor"),
        (FULL, {"log_weights": np.zeros(3, np.float32)}, "expected log_weights"),
        (FULL, {"log_weights": np.zeros(2, np.float64)}, "expected log_weights as float32"),
        (FULL, {"scales.factor": np.zeros((1, 3, 3), np.float32)}, "expected scales.factor"),
    ],
)
def test_wrong_content_under_a_right_checksum(tmp_path, about, change, message):
    (tmp_path / "forged").write_bytes(forged(about, GOOD | change))
    with pytest.raises(ValueError, match=rf"forged .*{message}"):
        load(tmp_path / "forged")


def test_a_folder_that_is_not_there_is_named_by_the_path_that_was_asked_for(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"No such file or directory, since there is no folder .*such: '.*m'"):
        save(tmp_path / "no" / "such" / "m", example("full", "float32"))


def test_what_cannot_be_saved_says_why(tmp_path, rng):
    result = jaxgmm.fit(jax.random.key(0), rng.normal(size=(30, 2)).astype(np.float32), 1, n_restarts=1)
    with pytest.raises(TypeError, match=r"save takes a Mixture, got FitResult.*\.mixture"):
        save(tmp_path / "m", result)
    mixture = example("full", "float32")
    with pytest.raises(TypeError, match="being traced"):
        jax.jit(lambda m: save(tmp_path / "m", m))(mixture)
    several = jax.tree.map(lambda leaf: np.stack([leaf, leaf]), mixture)
    with pytest.raises(ValueError, match=r"means \(K, D\), got means of shape \(2, 3, 2\)"):
        save(tmp_path / "m", several)
    half = jax.tree.map(lambda leaf: leaf.astype("bfloat16"), mixture)
    with pytest.raises(TypeError, match="got bfloat16"):
        save(tmp_path / "m", half)

    class Strange(Full):
        pass

    with pytest.raises(ValueError, match=r"'full' \(Strange\) is not on jaxgmm.families.SHELF"):
        save(tmp_path / "m", dataclasses.replace(mixture, family=Strange()))
    assert os.listdir(tmp_path) == []
