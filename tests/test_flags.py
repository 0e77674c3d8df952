"""How test processes compile: flags are those of the version."""

from __future__ import annotations

from tests import cheap_flags


def test_a_flag_that_xla_no_longer_knows_is_not_given():
    assert len(cheap_flags("0.10.2")) == 3
    assert cheap_flags("0.11.0") == cheap_flags("0.12.0.1") == cheap_flags("1.0")
    assert len(cheap_flags("0.12.0.1")) == 1
