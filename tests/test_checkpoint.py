"""A search that was killed goes on where it was kept, and ends with the same bits."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import jax
import numpy as np
import pytest

import jaxgmm
from jaxgmm import Blocks, Checkpoint
from jaxgmm.search import checkpoint, fingerprint
from tests import oracle

K, D = 4, 2
X = oracle.blobs(seed=7, n_rows=900, n_features=D, n_components=K, distance=2.0).x
KEY = jax.random.key(1)


class Killed(BaseException):
    """Stands for the end of a process: nothing catches it."""


def fit(folder=None, x=X, **more):
    keeping = None if folder is None else Checkpoint(folder, every=0.0)
    how = {"n_restarts": 6, "tol": 1e-7, "max_steps": 60, "dtype": np.float64} | more
    return jaxgmm.fit(KEY, x, K, "diag", checkpoint=keeping, **how)


def leaves(result):
    return [np.asarray(leaf) for leaf in jax.tree.leaves(result)]


def same_bits(ours, theirs):
    return all(np.array_equal(a, b, equal_nan=True) for a, b in zip(leaves(ours), leaves(theirs), strict=True))


def killed_after(n_writes, monkeypatch, **how):
    """Run a fit until so many writes were made, and then no further."""
    keep, made = checkpoint.Entry.keep, []

    def counted(self, tree, is_done=False):
        keep(self, tree, is_done)
        made.append(is_done)
        if len(made) == n_writes:
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Entry, "keep", counted)
        with pytest.raises(Killed):
            fit(**how)


WAYS = {
    "plain": {},
    "accelerated": {"acceleration": "lbfgs"},
    "race": {"race": jaxgmm.Race(3, 2)},
    "escape": {"escape": "split-merge"},
    "streamed": {"x": Blocks.from_array(X)},
}


@pytest.mark.parametrize("way", WAYS)
def test_what_was_killed_goes_on_to_the_same_bits(way, tmp_path, monkeypatch):
    """After one write, after two more, and once more when all is done; what is kept is not computed again."""
    whole = fit(**WAYS[way])
    for n_writes in (1, 2):
        killed_after(n_writes, monkeypatch, folder=tmp_path, **WAYS[way])
    assert same_bits(fit(tmp_path, **WAYS[way]), whole)
    monkeypatch.setattr(checkpoint.Entry, "keep", lambda *_, **__: None)
    assert same_bits(fit(tmp_path, **WAYS[way]), whole)


def test_a_sweep_goes_on_to_the_same_table(tmp_path, monkeypatch):
    how = {"n_components": [1, 3], "families": ["diag", "spherical"], "n_restarts": 3, "dtype": np.float64}
    whole = jaxgmm.sweep(KEY, X, **how)
    keep = checkpoint.Entry.keep

    def until_the_second(self, tree, is_done=False):
        keep(self, tree, is_done)
        if self.path.name == "0001.part":
            raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint.Entry, "keep", until_the_second)
        with pytest.raises(Killed):
            jaxgmm.sweep(KEY, X, **how, checkpoint=Checkpoint(tmp_path, every=0.0))
    assert jaxgmm.sweep(KEY, X, **how, checkpoint=tmp_path).table() == whole.table()


@pytest.mark.parametrize("damage", ["a byte", "the end", "all"])
def test_a_damaged_file_is_refused_and_the_one_before_is_used(damage, tmp_path, monkeypatch):
    whole = fit()
    killed_after(3, monkeypatch, folder=tmp_path)
    path = tmp_path / "0000.part"
    content = bytearray(path.read_bytes())
    if damage == "a byte":
        content[len(content) // 2] ^= 1
    path.write_bytes({"a byte": content, "the end": content[:-100], "all": b""}[damage])
    assert (tmp_path / "0000.before").exists()
    with pytest.warns(UserWarning, match=r"0000\.part is damaged: its checksum does not match\. What was kept before"):
        assert same_bits(fit(tmp_path), whole)


@pytest.mark.parametrize(
    ("more", "told"),
    [
        ({"tol": 1e-5}, "tol was 1e-07 and is 1e-05"),
        ({"n_restarts": 2}, "n_restarts was 6 and is 2"),
        ({"x": X[:-1]}, "N was 900 and is 899"),
        ({"x": X + 1.0}, "data was"),
        ({"race": True}, "race was None and is Race"),
    ],
)
def test_a_folder_belongs_to_one_search(more, told, tmp_path):
    fit(tmp_path, max_steps=3)
    with pytest.raises(ValueError, match=f"belongs to another search: .*{told}"):
        fit(tmp_path, **{"max_steps": 3, **more})


def test_a_folder_with_other_files_is_refused(tmp_path):
    (tmp_path / "thesis.txt").write_text("words")
    with pytest.raises(ValueError, match="holds other files"):
        fit(tmp_path)


@pytest.mark.parametrize("value", [3, "folder"])
def test_what_a_checkpoint_may_be(value, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    if isinstance(value, str):
        jaxgmm.fit(KEY, X, 2, "diag", n_restarts=1, max_steps=1, checkpoint=value)
        assert sorted(path.name for path in Path(value).iterdir()) == [".lock", "0000.part", "about.json"]
    else:
        with pytest.raises(TypeError, match="checkpoint must be a folder's path, or a Checkpoint, got 3"):
            jaxgmm.fit(KEY, X, 2, checkpoint=value)
    with pytest.raises(ValueError, match="every must be finite and not negative"):
        Checkpoint("folder", every=-1.0)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"x": np.concatenate([X[1:], X[:1]])}, "data was"),
        ({"sample_weight": np.roll(np.linspace(1.0, 2.0, len(X)), 5)}, "data was"),
        ({"x": Blocks.from_array(np.concatenate([X[:-2], 2 * X[-2:-1] - X[-1:], X[-1:]]))}, "data was"),
    ],
    ids=["order", "order of weights", "a streamed row"],
)
def test_other_rows_with_the_same_sums_are_another_search(change, told, tmp_path):
    same = {"x": Blocks.from_array(X)} if isinstance(change.get("x"), Blocks) else {}
    same |= {"sample_weight": np.linspace(1.0, 2.0, len(X))} if "sample_weight" in change else {}
    fit(tmp_path, max_steps=3, **same)
    fit(tmp_path, max_steps=3, **same)
    with pytest.raises(ValueError, match=f"belongs to another search: .*{told}"):
        fit(tmp_path, max_steps=3, **change)


def test_rows_of_an_accelerator_are_told_apart_where_they_lie():
    """By sums of their bits, in which each place counts."""
    rows = jax.numpy.asarray(np.random.default_rng(0).normal(size=(50, 3)).astype(np.float32))
    found = {
        tuple(map(int, fingerprint.mixed(each))) for each in (rows, rows[::-1], rows[:, ::-1], rows.at[3, 1].add(1))
    }
    assert len(found) == 4
    assert tuple(map(int, fingerprint.mixed(rows + 0))) in found
    with jax.enable_x64(True):
        wide = rows.astype(np.float64)
        assert tuple(map(int, fingerprint.mixed(wide))) != tuple(map(int, fingerprint.mixed(wide.at[0, 0].add(1e-15))))


NO_ROOM = {"the disk is full": errno.ENOSPC, "a file grows too large": errno.EFBIG, "a quota": errno.EDQUOT}


@pytest.mark.parametrize("written", [0, 1, 3], ids=["nothing", "its name", "three files"])
@pytest.mark.parametrize("why", NO_ROOM)
def test_a_checkpoint_for_which_there_is_no_room_is_a_warning(why, written, tmp_path, monkeypatch):
    """The fit goes on to its end, and what was kept before is resumed."""
    made, whole = [], checkpoint.atomically

    @contextlib.contextmanager
    def within_limits(path):
        with whole(path) as file:
            made.append(path)
            if len(made) > written:
                raise OSError(NO_ROOM[why], os.strerror(NO_ROOM[why]), str(path))
            yield file

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "atomically", within_limits)
        with pytest.warns(UserWarning, match="could not be written") as said:
            ours = fit(tmp_path)
    assert len(made) > written + 1  # it is tried again
    (warning,) = said
    assert str(tmp_path) in str(warning.message)
    assert os.strerror(NO_ROOM[why]) in str(warning.message)
    assert "free space there" in str(warning.message)
    assert same_bits(ours, fit())
    assert same_bits(fit(tmp_path), ours)


@pytest.mark.parametrize("way", ["plain", "streamed"])
def test_a_folder_that_goes_is_a_warning(way, tmp_path):
    def remove(_):
        shutil.rmtree(tmp_path / "fit", ignore_errors=True)

    with pytest.warns(UserWarning, match=r"The checkpoint in .*fit could not be written .*No such file"):
        ours = fit(tmp_path / "fit", progress=remove, **WAYS[way])
    assert same_bits(ours, fit(**WAYS[way]))


def test_a_folder_that_cannot_be_one_is_an_error_with_its_path(tmp_path):
    (tmp_path / "thesis.txt").write_text("words")
    for folder in (tmp_path / "thesis.txt", tmp_path / "thesis.txt" / "fit"):
        with pytest.raises(OSError, match=r"The checkpoint folder .*thesis\.txt.* cannot be used .*Give a folder"):
            fit(folder)


def test_one_run_at_a_time_is_at_work_in_a_folder(tmp_path):
    def fits_there_too(_):
        with pytest.raises(
            ValueError, match=r"Another run is at work in .*\. Wait until it ends, or give another folder"
        ):
            fit(tmp_path)
        asked.append(True)

    asked = []
    fit(tmp_path, progress=fits_there_too)
    assert asked
    fit(tmp_path)


def test_a_fit_in_a_callback_is_no_call_of_the_search(tmp_path):
    """It goes its own way, and what is kept stays the outer search's."""
    inner = []

    def fits(_):
        inner.append(float(jaxgmm.fit(KEY, X[:100], 2, "diag", dtype=np.float64).objective))

    whole = fit(progress=fits)
    assert same_bits(fit(tmp_path, progress=fits), whole)
    assert same_bits(fit(tmp_path, progress=fits), whole)
    assert len(set(inner)) == 1
    assert sorted(path.suffix for path in tmp_path.iterdir() if path.stem == "0000") == [".before", ".part"]
    assert not (tmp_path / "0001.part").exists()


def test_what_killed_writers_left_is_deleted_and_a_damaged_file_never_replaces_a_sound_one(tmp_path, monkeypatch):
    killed_after(3, monkeypatch, folder=tmp_path)
    draft, part, before = (tmp_path / name for name in (f".{'0f' * 8}.part", "0000.part", "0000.before"))
    draft.write_bytes(b"half of")
    part.write_bytes(b"damaged")
    sound = before.read_bytes()
    with pytest.warns(UserWarning, match="is damaged"):
        killed_after(1, monkeypatch, folder=tmp_path)
    assert not draft.exists()
    assert before.read_bytes() == sound
    before.write_bytes(b"damaged")
    part.write_bytes(b"damaged")
    with pytest.warns(UserWarning, match="is damaged") as told:
        assert same_bits(fit(tmp_path), fit())
    assert [str(one.message).rsplit(". ")[-1] for one in told] == [
        "What was kept before it is used.",
        "The call begins anew.",
    ]


PROGRAM = """
    import sys
    import jax
    import numpy as np
    import jaxgmm

    x = np.random.default_rng(0).normal(size=(100_000, 4))
    rows = jaxgmm.Blocks.from_array(x) if sys.argv[2] == "streamed" else x
    print("begins", flush=True)
    result = jaxgmm.fit(
        jax.random.key(0), rows, 8, "diag", n_restarts=2, tol=0.0, max_steps=40,
        checkpoint=jaxgmm.Checkpoint(sys.argv[1], every=0.0),
    )
    print(np.asarray(result.objective).tobytes().hex(), np.asarray(result.mixture.means).tobytes().hex())
"""


@pytest.mark.slow
@pytest.mark.parametrize("way", ["whole", "streamed"])
def test_after_kill_9_nothing_is_lost(way, tmp_path):
    """A real process, killed while it computes and writes, as soon as there is something to go on from."""
    command = [sys.executable, "-c", textwrap.dedent(PROGRAM)]
    through = subprocess.run([*command, tmp_path / "whole", way], capture_output=True, text=True, check=True)
    folder = tmp_path / "killed"
    with subprocess.Popen([*command, folder, way], stdout=subprocess.PIPE, text=True) as process:
        while not (folder / "0000.before").exists():
            assert process.poll() is None
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert process.returncode == -signal.SIGKILL
    again = subprocess.run([*command, folder, way], capture_output=True, text=True, check=True)
    assert again.stdout == through.stdout
    assert len(through.stdout.splitlines()) == 2
