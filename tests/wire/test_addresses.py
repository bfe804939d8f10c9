"""Addresses as people are shown them."""

from __future__ import annotations

from cluster_service.wire.addresses import Address


def test_an_address_in_a_sentence_is_one_visible_line() -> None:
    address = Address("unix", "/run/a\n[cservice] forged\x1b[2J\u202e\udcff")
    assert str(address) == "unix:/run/a\n[cservice] forged\x1b[2J\u202e\udcff"
    assert f"{address}" == "unix:/run/a\\n[cservice] forged\\x1b[2J\\u202e\\udcff"
    assert f"{Address('tcp', '127.0.0.1', 80):>15}" == "   127.0.0.1:80"
