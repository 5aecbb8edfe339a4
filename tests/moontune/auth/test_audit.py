"""The audit log."""

import pytest

from moontune.auth.audit import MOST_UNKNOWN_A_MINUTE, AuditEntry
from moontune.auth.keys import KeyStore


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/keys.db"


def stored(url, **filters):
    store = KeyStore(url)
    entries = store.audit.list(**filters)
    store.close()
    return entries


def test_what_happens_to_keys_is_recorded(url):
    store = KeyStore(url)
    key, _ = store.create("acme")
    new, _ = store.rotate(key.id)
    store.revoke(new.id)
    store.close()
    acts = [(entry.action, entry.key_id, entry.organisation) for entry in reversed(stored(url))]
    assert acts == [
        ("keys create", key.id, "acme"),
        ("keys rotate", key.id, "acme"),
        ("keys create", new.id, "acme"),
        ("keys revoke", new.id, "acme"),
    ]


def test_entries_are_kept_in_order_by_organisation_and_cut_to_their_columns(url):
    store = KeyStore(url)
    for index in range(700):
        store.audit.note(AuditEntry("acme" if index % 2 else "zeta", "k", f"POST /{index}", "200"))
    store.audit.note(AuditEntry("acme", "k", "x" * 1000, "y" * 1000, "z" * 1000))
    store.close()
    entries = stored(url, organisation="acme", limit=3)
    assert [entry.action[:9] for entry in entries] == ["x" * 9, "POST /699", "POST /697"]
    assert [len(value) for value in (entries[0].action, entries[0].outcome, entries[0].peer)] == [256, 64, 128]
    assert len(stored(url, limit=10_000)) == 701


def test_strangers_cannot_fill_the_disk(url, monkeypatch):
    store = KeyStore(url)
    moment = AuditEntry("", "", "a", "401").at
    for _ in range(10 * MOST_UNKNOWN_A_MINUTE):
        store.audit.note(AuditEntry("", "", "POST /", "401", at=moment))
    store.close()
    assert len(stored(url, limit=10_000)) == MOST_UNKNOWN_A_MINUTE
