"""How test processes compile: programs go from one to the next, and no broken one; flags are those of the version."""

from __future__ import annotations

import os
import zlib

from tests import cheap_flags, kept_programs
from tests.kept_programs import KeptPrograms, make_room


def entries(folder):
    return {path.name for path in folder.iterdir()}


def test_programs_are_exchanged_and_broken_ones_dropped(tmp_path):
    one, other = KeptPrograms(tmp_path), KeptPrograms(tmp_path)
    sound = zlib.compress(b"a program" * 100)
    (one.own / "a-cache").write_bytes(sound)
    (one.own / "b-cache").write_bytes(sound[:-5])
    one.exchange()
    other.exchange()
    assert entries(one.own) == entries(other.own) == entries(one.common) == {"a-cache"}
    one.close()
    assert (KeptPrograms(tmp_path).own / "a-cache").read_bytes() == sound


def test_the_oldest_go_and_what_ended_processes_left(tmp_path, monkeypatch):
    kept = KeptPrograms(tmp_path)
    monkeypatch.setattr(kept_programs, "LIMIT", 250)
    for age, name in enumerate("abc"):
        (kept.common / f"{name}-cache").write_bytes(bytes(100))
        os.utime(kept.common / f"{name}-cache", (1e9 - age, 1e9 - age))
    left = tmp_path / f"process-{2**22 + 1}-left"  # beyond any number that Linux gives
    left.mkdir()
    make_room(tmp_path)
    assert entries(kept.common) == {"a-cache", "b-cache"}
    assert not left.exists()
    assert kept.own.exists()


def test_a_flag_that_xla_no_longer_knows_is_not_given():
    assert len(cheap_flags("0.10.2")) == 3
    assert cheap_flags("0.11.0") == cheap_flags("0.12.0.1") == cheap_flags("1.0")
    assert len(cheap_flags("0.12.0.1")) == 1
