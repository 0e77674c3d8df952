"""Programs on disk: whole or absent, within their bound, for this machine only, and never in anybody's way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

import jaxgmm
from jaxgmm._base import cache
from jaxgmm._base.cache import Store, enable_cache
from jaxgmm.cli import main

SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_persistent_cache_min_compile_time_secs",
    "jax_persistent_cache_min_entry_size_bytes",
    "jax_persistent_cache_enable_xla_caches",
    "jax_enable_compilation_cache",
)
KEYS = ("JAXGMM_CACHE", "XDG_CACHE_HOME", "HOME", "LOCALAPPDATA", "USERPROFILE")


def settings():
    return {name: getattr(jax.config, name) for name in SETTINGS}


@pytest.fixture
def process(monkeypatch, tmp_path):
    """A process with a home of its own in which nothing is set; all is put back afterwards."""
    from jax._src import compilation_cache as inside

    before = settings()
    monkeypatch.setattr(inside, "get_file_cache", inside.get_file_cache)
    monkeypatch.setattr(cache, "_stores", {})
    for name in KEYS:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    for name, value in before.items():
        jax.config.update(name, value)
    compilation_cache.reset_cache()


def compiled(number):
    """Have JAX compile a program that no other test has; -> what it gives for 1."""
    return float(jax.jit(lambda x: x * number + number)(1.0))


def programs(folder):
    return sorted(Path(folder).rglob("*" + cache.SUFFIX))


# A store


@pytest.fixture
def store(tmp_path):
    folder = tmp_path / "root" / "jaxlib-1-machine"
    folder.mkdir(parents=True)
    return Store(folder)


def test_what_is_put_is_got(store):
    assert store.get("key") is None
    for value in (b"program", b"", os.urandom(10_000)):
        store.put("key", value)
        assert store.get("key") == value
    name = "a name / of no file " * 50
    store.put(name, b"other")
    assert (store.get(name), store.get(name + "x")) == (b"other", None)


DAMAGES = {
    "first byte flipped": lambda content: bytes([content[0] ^ 1]) + content[1:],
    "last bit flipped": lambda content: content[:-1] + bytes([content[-1] ^ 128]),
    "half": lambda content: content[: len(content) // 2],
    "shorter than a digest": lambda content: content[:7],
    "empty": lambda _: b"",
    "longer": lambda content: content + b"\0",
    "zeros": lambda content: bytes(len(content)),
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES)
def test_a_damaged_file_counts_as_absent_and_is_replaced(store, damage):
    store.put("key", b"program" * 100)
    (file,) = programs(store.folder)
    file.write_bytes(damage(file.read_bytes()))
    assert store.get("key") is None
    store.put("key", b"program" * 100)
    assert store.get("key") == b"program" * 100


def test_a_file_under_anothers_name_counts_as_absent(store):
    store.put("key", b"program")
    (file,) = programs(store.folder)
    store.put("other", b"another")
    (other,) = set(programs(store.folder)) - {file}
    os.replace(file, other)
    assert store.get("other") is None


def test_the_bound_holds_and_the_longest_unused_go(tmp_path):
    """Of two versions together, at every moment; other files are not touched."""
    old, new = (Store(tmp_path / f"jaxlib-{version}-machine", bound=100_000) for version in (1, 2))
    foreign = [tmp_path / "data.bin", tmp_path / "jaxlib-1-machine" / "notes.txt", tmp_path / "mine" / "a.program"]
    for file in foreign:
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(bytes(200_000))
    for number in range(5):
        old.put(f"old {number}", bytes(1000))
    for number in range(300):
        new.put(f"new {number}", bytes(1000))
        assert new.get("new 0") is not None  # and is thus in use
        size = sum(file.stat().st_size for folder in (old, new) for file in programs(folder.folder))
        assert size <= 100_000
        for file in programs(old.folder) + programs(new.folder):  # clocks of file systems are coarse
            os.utime(file, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns - 10**9))
    assert programs(old.folder) == []
    kept = [number for number in range(300) if new.get(f"new {number}") is not None]
    assert kept[0] == 0
    assert kept[1:] == list(range(kept[1], 300))
    assert size > 90_000
    new.put("huge", bytes(90_000))
    assert new.get("huge") is None
    assert all(file.stat().st_size == 200_000 for file in foreign)


def test_what_killed_writers_left_goes_as_well(tmp_path):
    store = Store(tmp_path / "jaxlib-1-machine", bound=100_000)
    store.put("key", b"program")
    draft = store.folder / f".{'0' * 16}.part"
    draft.write_bytes(bytes(100_000))
    os.utime(draft, (0, 0))
    Store(store.folder, bound=100_000).put("other", b"program")
    assert not draft.exists()
    assert store.get("key") == b"program"


def test_a_disk_that_fails_is_no_error(store, monkeypatch):
    blocked = store.folder.parent / "file"
    blocked.write_bytes(b"")
    Store(blocked / "jaxlib-1-machine").put("key", b"program")
    assert Store(blocked / "jaxlib-1-machine").get("key") is None

    def full(*_):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        store.put("key", b"program")
    assert list(store.folder.iterdir()) == []
    with monkeypatch.context() as patch:
        patch.setattr(os, "utime", full)  # as on a disk that can only be read
        store.put("key", b"program")
        assert store.get("key") == b"program"
    for file in store.folder.iterdir():
        file.unlink()
    store.folder.rmdir()
    assert store.get("key") is None
    store.put("key", b"program")
    assert store.get("key") == b"program"


def test_a_reader_sees_whole_programs_only_also_when_the_writer_is_killed(store):
    code = (
        "import sys; from pathlib import Path; from jaxgmm._base.cache import Store\n"
        "store = Store(Path(sys.argv[1]))\n"
        "while True:\n"
        "    for letter in (b'a', b'b'): store.put('key', letter * 3_000_000)"
    )
    seen = set()
    with subprocess.Popen([sys.executable, "-c", code, store.folder]) as writer:
        try:
            until = time.monotonic() + 60.0
            while seen != {b"a", b"b"} and time.monotonic() < until:
                program = store.get("key")
                assert program is None or program in (b"a" * 3_000_000, b"b" * 3_000_000)
                # A program that is there is replaced, never taken away.
                assert program is not None or not seen
                seen |= set() if program is None else {program[:1]}
        finally:
            writer.kill()
    assert seen == {b"a", b"b"}
    assert store.get("key")[:1] in seen


# The machine


def machine(monkeypatch, tmp_path, text):
    (tmp_path / "cpuinfo").write_text(text)
    monkeypatch.setattr(cache, "CPUINFO", str(tmp_path / "cpuinfo"))
    return cache._machine()


def test_another_processor_has_another_folder(monkeypatch, tmp_path):
    x86 = "processor\t: 0\nmodel name\t: EPYC\ncpu MHz\t: {}\nflags\t: fpu avx2{}\n\nprocessor\t: 1\ncpu MHz\t: {}\n"
    arm = "processor\t: 0\nBogoMIPS\t: {}\nFeatures\t: fp asimd{}\nCPU part\t: 0xd0c\n"
    names = {machine(monkeypatch, tmp_path, x86.format(mhz, "", mhz)) for mhz in (2000, 3000)}
    assert len(names) == 1
    names |= {machine(monkeypatch, tmp_path, text) for text in (x86.format(1, " avx512f", 1), arm.format(1, ""))}
    names.add(machine(monkeypatch, tmp_path, arm.format(1, " sve")))
    assert machine(monkeypatch, tmp_path, arm.format(2, " sve")) in names
    assert len(names) == 4
    monkeypatch.setattr(cache, "CPUINFO", str(tmp_path / "none"))
    for node in ("one", "two"):
        monkeypatch.setattr(cache.platform, "node", lambda node=node: node)
        names.add(cache._machine())
    assert len(names) == 6


# The switch


def means_of_a_fit():
    x = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
    return np.asarray(jaxgmm.fit(jax.random.key(0), x, 2, init=x[:2]).mixture.means).tolist()


def test_importing_and_fitting_set_nothing():
    before = settings()
    means_of_a_fit()
    assert settings() == before
    assert os.environ["JAXGMM_CACHE"] == "off"


def test_the_switch_sets_what_it_says(process, tmp_path):
    folder = enable_cache(tmp_path / "here")
    assert folder.is_dir()
    assert folder.parent == tmp_path / "here"
    assert folder.name.startswith(f"jaxlib-{jax.lib.__version__}-")
    assert list(settings().values()) == [str(folder), 0.0, -1, "none", True]


def test_the_folder_is_the_first_that_is_named(process, monkeypatch, tmp_path):
    jax.config.update("jax_compilation_cache_dir", None)

    def root(path=None):
        jax.config.update("jax_compilation_cache_dir", None)
        return enable_cache(path).parent

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "platform", "linux")
    assert root() == tmp_path / "home" / ".cache" / "jaxgmm"
    monkeypatch.setenv("XDG_CACHE_HOME", "relative")
    assert root() == tmp_path / "home" / ".cache" / "jaxgmm"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert root() == tmp_path / "xdg" / "jaxgmm"
    monkeypatch.setenv("JAXGMM_CACHE", "")
    assert root() == tmp_path / "xdg" / "jaxgmm"
    monkeypatch.setenv("JAXGMM_CACHE", "mine")
    assert root() == tmp_path / "mine"
    monkeypatch.setenv("HOME", str(tmp_path / "house"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "house"))
    monkeypatch.setenv("JAXGMM_CACHE", "~/mine")
    assert root() == tmp_path / "house" / "mine"
    assert root(tmp_path / "given") == root(str(tmp_path / "given")) == tmp_path / "given"
    monkeypatch.delenv("JAXGMM_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(sys, "platform", "darwin")
    assert root() == tmp_path / "home" / "Library" / "Caches" / "jaxgmm"


@pytest.mark.parametrize("off", ["off", " OFF "])
def test_off_is_off(process, monkeypatch, tmp_path, off):
    monkeypatch.setenv("JAXGMM_CACHE", off)
    before = settings()
    assert enable_cache() is None
    assert enable_cache(tmp_path / "given") is None
    assert settings() == before
    assert list(tmp_path.iterdir()) == []


def test_jaxs_own_switch_is_heeded(process, tmp_path):
    jax.config.update("jax_enable_compilation_cache", False)
    before = settings()
    assert enable_cache() is None
    assert settings() == before


def test_a_cache_of_the_users_own_is_left_alone(process, tmp_path):
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    before = settings()
    assert enable_cache() == enable_cache(tmp_path / "given") == tmp_path / "own"
    assert settings() == before
    assert not (tmp_path / "given").exists()


def test_a_second_call_changes_nothing_unless_it_names_another_folder(process, tmp_path):
    first = enable_cache(tmp_path / "one")
    compiled(31.0)
    assert enable_cache() == enable_cache(tmp_path / "one") == first
    compiled(32.0)
    count = len(programs(first))
    assert count >= 2
    second = enable_cache(tmp_path / "two")
    compiled(33.0)
    assert len(programs(first)) == count
    assert len(programs(second)) >= 1
    # And a cache that the user sets up later is JAX's own.
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "own"))
    compilation_cache.reset_cache()
    compiled(34.0)
    assert list((tmp_path / "own").glob("*-cache"))


def test_it_is_not_too_late_after_programs_were_compiled(process, tmp_path):
    compiled(41.0)
    folder = enable_cache(tmp_path / "late")
    assert compiled(42.0) == 84.0
    assert programs(folder)


def test_where_no_folder_can_be_made_there_is_no_cache(process, monkeypatch, tmp_path):
    """What was asked for is warned of, and the default is not: nobody asked for it."""
    (tmp_path / "file").write_bytes(b"")
    before = settings()
    with pytest.warns(UserWarning, match="not kept: .*file") as said:
        assert enable_cache(tmp_path / "file" / "below") is None
    assert Path(said[0].filename) == Path(__file__)
    with monkeypatch.context() as patch:
        patch.setenv("JAXGMM_CACHE", str(tmp_path / "file"))
        with pytest.warns(UserWarning, match="not kept"):
            assert enable_cache() is None
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "file")
    assert enable_cache() is None

    def homeless():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    assert enable_cache() is None
    assert settings() == before


def test_a_jax_without_the_place_for_it_has_no_cache(process, monkeypatch, tmp_path):
    from jax._src import compilation_cache as inside

    monkeypatch.delattr(inside, "get_file_cache")
    before = settings()
    assert enable_cache(tmp_path / "given") is None
    assert settings() == before


# Whole processes

FIT = """
import collections, json, sys, warnings
warnings.simplefilter("error")
import jax, numpy as np, jaxgmm
count = collections.Counter()
jax.monitoring.register_event_listener(lambda event, **_: count.update([event.rpartition("/")[2]]))
folder = jaxgmm.enable_cache(sys.argv[1])
x = np.random.default_rng(0).normal(size=(60, 2)).astype(np.float32)
found = jaxgmm.fit(jax.random.key(0), x, 2, init=x[:2])
print(json.dumps([str(folder), np.asarray(found.mixture.means).tolist(), count["cache_hits"], count["cache_misses"]]))
"""


def start(folder, **environment):
    environment = {**os.environ, "JAXGMM_CACHE": "", **environment}
    command = [sys.executable, "-c", FIT, folder]
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def end(process):
    """-> (folder, means, hits, misses) of a process that said nothing else."""
    out, err = process.communicate(timeout=300)
    assert err == ""
    assert process.returncode == 0
    return json.loads(out)


def test_fits_agree_whatever_is_on_disk(tmp_path):
    """Two processes at once on an empty folder, one whose files are all damaged, and one that finds all it needs."""
    right = means_of_a_fit()
    both = [start(tmp_path), start(tmp_path)]
    (folder, means, _, misses), (_, same, _, others) = map(end, both)
    assert means == same == right
    assert misses + others > 0
    files = programs(folder)
    assert len(files) >= misses
    assert set(tmp_path.rglob("*.*")) == {Path(folder), *files}  # no drafts are left
    damages = list(DAMAGES.values())
    whole = [file.read_bytes() for file in files]
    for number, file in enumerate(files):
        file.write_bytes(damages[number % len(damages)](whole[number]))
    _, means, hits, misses = end(start(tmp_path))
    assert means == right
    assert (hits, misses) == (0, len(files))
    _, means, hits, misses = end(start(tmp_path))
    assert means == right
    assert (hits, misses) == (len(files), 0)


def test_a_fit_in_a_folder_that_goes_bad_is_right_and_silent(process, tmp_path):
    """The folder turns into a file under a running process."""
    folder = enable_cache(tmp_path / "cache")
    assert compiled(51.0) == 102.0
    for file in folder.iterdir():
        file.unlink()
    folder.rmdir()
    folder.write_bytes(b"")
    assert compiled(52.0) == 104.0
    jax.clear_caches()
    assert compiled(51.0) == 102.0


def test_the_command_line_switches_it_on(process, monkeypatch, tmp_path, capsys):
    mixture = jaxgmm.Mixture.create([1.0], [[0.0, 1.0]], np.ones(1), family="spherical")
    jaxgmm.save(tmp_path / "model", mixture)
    jax.clear_caches()  # of what other tests have compiled
    monkeypatch.setenv("JAXGMM_CACHE", str(tmp_path / "cache"))
    assert main(["sample", str(tmp_path / "model"), "-n", "3"]) == 0
    assert programs(tmp_path / "cache")
    assert capsys.readouterr().err == ""
    jax.config.update("jax_compilation_cache_dir", None)
    monkeypatch.setenv("JAXGMM_CACHE", str(tmp_path / "model"))
    assert main(["sample", str(tmp_path / "model"), "-n", "3"]) == 0
    said = capsys.readouterr().err
    assert said.startswith("jaxgmm: warning: Compiled programs are not kept: ")
    assert said.count("\n") == 1


def test_the_processes_that_run_the_tests_keep_their_programs():
    """Where they did not, all tests would pass all the same, in twice the time."""
    folder = os.environ.get("JAXGMM_TEST_PROGRAMS")
    if folder is None or not jax.config.jax_enable_compilation_cache:
        pytest.skip("pytest's cache or JAX's is off, or the user keeps programs elsewhere")
    jax.jit(lambda x: x + 1.0)(np.ones(3, np.float32)).block_until_ready()
    kept = Path(jax.config.jax_compilation_cache_dir)
    assert kept.parent == Path(folder)
    assert any(kept.iterdir())
