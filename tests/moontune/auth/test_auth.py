import sqlite3
from datetime import UTC, datetime, timedelta

import pytest
import sqlalchemy as sa

from moontune.auth import internal_token
from moontune.auth.authenticator import Authenticator, bearer, is_loopback
from moontune.auth.database import open_database
from moontune.auth.keys import MIGRATIONS, KeyStore
from moontune.auth.scopes import SCOPE_OF, require, required_scope
from moontune.errors import InvalidField, InvalidState, NotFound, PermissionDenied, Unauthenticated
from moontune.values.principal import LOCAL_PRINCIPAL, KeyLimits, Principal, Scope

HERE, ELSEWHERE = "ipv4:127.0.0.1:5", "ipv4:10.0.0.7:5"


@pytest.fixture
def store(tmp_path):
    keys = KeyStore(f"sqlite:///{tmp_path}/auth/keys.db")
    yield keys
    keys.close()


def key_metadata(secret: str) -> dict[str, str]:
    return {"authorization": f"Bearer {secret}"}


def test_a_key_is_made_found_listed_and_revoked(store):
    assert not store.any()
    key, secret = store.create("acme", "laptop", [Scope.INFER, Scope.READ])
    other, _ = store.create("zeta")
    assert store.lookup(secret) == Principal("acme", frozenset({Scope.INFER, Scope.READ}), key.id)
    assert store.lookup(secret + "x") is None
    assert store.list("acme") == [key]
    assert store.list() == [key, other]
    assert store.revoke(key.id).revoked_at is not None
    assert store.revoke(key.id).revoked_at is not None
    assert store.lookup(secret) is None
    assert store.list("acme")[0].revoked_at is not None
    with pytest.raises(NotFound, match="no API key"):
        store.revoke("none")
    store.revoke(other.id)
    assert store.any()


@pytest.mark.parametrize("organisation", ["", "a b", "x" * 65, "--", "société"])
def test_bad_keys_are_refused(store, organisation):
    with pytest.raises(InvalidField, match="organisation"):
        store.create(organisation)
    with pytest.raises(InvalidField, match="scopes"):
        store.create("acme", scopes=[])


def test_only_a_hash_reaches_the_disk(store, tmp_path):
    _, secret = store.create("acme")
    store.close()
    for path in (tmp_path / "auth").iterdir():
        assert secret.encode() not in path.read_bytes()


def test_opening_again_keeps_the_keys_and_the_organisation_is_required(tmp_path):
    url = f"sqlite:///{tmp_path}/keys.db"
    first = KeyStore(url)
    _, secret = first.create("acme")
    second = KeyStore(url)
    assert second.lookup(secret) is not None
    first.close()
    second.close()
    with sqlite3.connect(tmp_path / "keys.db") as database:
        columns = {row[1]: row[3] for row in database.execute("PRAGMA table_info(api_keys)")}
        assert database.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    database.close()
    assert columns["organisation"] == 1


def test_two_folders_of_migrations_share_one_database(tmp_path):
    url = f"sqlite:///{tmp_path}/shared.db"
    for table in ("a_version", "b_version"):
        folder = tmp_path / table
        (folder / "versions").mkdir(parents=True)
        (folder / "env.py").write_text((MIGRATIONS / "env.py").read_text())
        (folder / "versions" / "0001.py").write_text(
            "import sqlalchemy as sa\nfrom alembic import op\nrevision='0001'\ndown_revision=None\n"
            f"def upgrade():\n    op.create_table('{table}_t', sa.Column('id', sa.Integer, primary_key=True))\n"
        )
        engine = open_database(url, folder, table)
        engine.dispose()
    engine = open_database(url, tmp_path / "a_version", "a_version")
    with engine.connect() as connection:
        assert {"a_version_t", "b_version_t"} <= set(sa.inspect(connection).get_table_names())
        assert connection.execute(sa.text("PRAGMA foreign_keys")).scalar() == 1
    engine.dispose()


async def test_without_keys_this_machine_is_let_in_with_any_key_or_none(store):
    for authenticator in (Authenticator(), Authenticator(store), Authenticator(token="shared")):
        for metadata in ({}, key_metadata("anything"), {"x-moontune-auth": "anything"}):
            assert await authenticator.authenticate(metadata, HERE) == LOCAL_PRINCIPAL
        with pytest.raises(Unauthenticated, match="only callers on this machine"):
            await authenticator.authenticate(key_metadata("anything"), ELSEWHERE)


async def test_with_keys_a_known_one_is_needed_everywhere(store):
    _, secret = store.create("acme", scopes=[Scope.READ])
    authenticator = Authenticator(store)
    for metadata in (key_metadata(secret), {"authorization": f"bearer {secret}"}, {"x-moontune-auth": secret}):
        for peer in (HERE, ELSEWHERE):
            assert (await authenticator.authenticate(metadata, peer)).organisation == "acme"
    for metadata in ({}, {"authorization": secret}, {"authorization": "Basic x"}):
        with pytest.raises(Unauthenticated, match="send an API key"):
            await authenticator.authenticate(metadata, HERE)
    with pytest.raises(Unauthenticated) as refused:
        await authenticator.authenticate(key_metadata("mt_wrong"), HERE)
    assert "mt_wrong" not in refused.value.message


async def test_a_revoked_key_stops_working_after_the_cache(store):
    key, secret = store.create("acme")
    cached, direct = Authenticator(store, cache_s=60), Authenticator(store, cache_s=0)
    for authenticator in (cached, direct):
        await authenticator.authenticate(key_metadata(secret), HERE)
    store.revoke(key.id)
    assert await cached.authenticate(key_metadata(secret), HERE)
    with pytest.raises(Unauthenticated, match="not known or was revoked"):
        await direct.authenticate(key_metadata(secret), HERE)


async def test_the_first_key_closes_the_door(store):
    authenticator = Authenticator(store, cache_s=0)
    await authenticator.authenticate({}, HERE)
    store.create("acme")
    with pytest.raises(Unauthenticated):
        await authenticator.authenticate({}, HERE)


async def test_the_internal_token_speaks_for_one_organisation_and_not_for_long(store):
    store.create("acme")
    authenticator = Authenticator(store, token="shared")
    principal = await authenticator.authenticate(internal_token.sign("shared", "acme"), ELSEWHERE)
    assert (principal.organisation, principal.internal) == ("acme", True)
    assert principal.scopes == frozenset(Scope)
    bad = [
        internal_token.sign("other", "acme"),
        internal_token.sign("shared", "acme") | {internal_token.ORGANISATION_HEADER: "zeta"},
        internal_token.sign("shared", "acme", now_s=1_000_000),
        {internal_token.TOKEN_HEADER: "", internal_token.ORGANISATION_HEADER: "acme"},
        {internal_token.TOKEN_HEADER: "abc.def", internal_token.ORGANISATION_HEADER: "acme"},
        {internal_token.TOKEN_HEADER: internal_token.sign("shared", "")[internal_token.TOKEN_HEADER]},
    ]
    for metadata in bad:
        with pytest.raises(Unauthenticated):
            await authenticator.authenticate(metadata, HERE)
    assert "shared" not in str(internal_token.sign("shared", "acme"))


async def test_an_internal_token_is_refused_where_none_is_set_rather_than_taken_for_a_local_caller():
    with pytest.raises(Unauthenticated, match="internal_token"):
        await Authenticator().authenticate(internal_token.sign("shared", "acme"), HERE)


@pytest.mark.parametrize("url", ["nonsense", "postgresql+nodriver://me:hush@db/x", "sqlite:////proc/nowhere/x.db"])
def test_a_database_that_cannot_be_opened_is_a_clear_error(url):
    with pytest.raises(InvalidField, match="database") as refused:
        KeyStore(url)
    assert "hush" not in refused.value.message


def test_a_database_of_a_newer_version_is_a_clear_error(tmp_path):
    url = f"sqlite:///{tmp_path}/keys.db"
    KeyStore(url).close()
    with sqlite3.connect(tmp_path / "keys.db") as connection:
        connection.execute("UPDATE auth_version SET version_num = '9999'")
    connection.close()
    with pytest.raises(InvalidField, match="9999"):
        KeyStore(url)


def test_the_token_of_a_known_moment_by_hand():
    entries = internal_token.sign("k", "o", now_s=100)
    # printf '100|o' | openssl dgst -sha256 -hmac k
    mac = "5dc7f1ed82846d3a60f13e0f9ec7b6435213ac76b991900f45d4d8c7a1d39b66"
    assert entries[internal_token.TOKEN_HEADER] == f"100.{mac}"
    assert internal_token.verify("k", entries[internal_token.TOKEN_HEADER], "o", now_s=399).internal
    with pytest.raises(Unauthenticated, match="clocks"):
        internal_token.verify("k", entries[internal_token.TOKEN_HEADER], "o", now_s=401)


@pytest.mark.parametrize(
    ("peer", "expected"),
    [
        (HERE, True),
        (ELSEWHERE, False),
        ("ipv6:%5B::1%5D:99", True),
        ("ipv6:[::1]:99", True),
        ("ipv6:%5B::ffff:127.0.0.1%5D:99", True),
        ("ipv6:%5B2001:db8::1%5D:99", False),
        ("unix:/tmp/x", True),
        ("ipv4:127.evil.example:5", False),
        ("", False),
    ],
)
def test_loopback_peers(peer, expected):
    assert is_loopback(peer) is expected


def test_a_bearer_key_wins_over_the_plain_header():
    assert bearer({"authorization": "Bearer a", "x-moontune-auth": "b"}) == "a"
    assert bearer({"x-moontune-auth": " b "}) == "b"
    assert bearer({}) == ""


def test_scopes():
    reader = Principal("acme", frozenset({Scope.READ}))
    require(reader, "/moontune.api.trainer.v1.TrainerService/GetFinetune")
    with pytest.raises(PermissionDenied, match=r"TrainStep needs the scope train; this key holds: read"):
        require(reader, "/moontune.api.trainer.v1.TrainerService/TrainStep")
    require(Principal("acme", frozenset({Scope.ADMIN})), "/moontune.api.trainer.v1.TrainerService/TrainStep")
    assert required_scope("/some.Other/Rpc") is Scope.ADMIN
    assert len(SCOPE_OF) == len(set(SCOPE_OF))


async def test_a_rotated_key_works_until_its_overlap_ends_and_its_follower_is_like_it(store):
    limits = KeyLimits(5.0, 2, 1000)
    old, old_secret = store.create("acme", "ci", [Scope.READ, Scope.TRAIN], limits)
    new, new_secret = store.rotate(old.id, timedelta(hours=1))
    assert (new.organisation, new.name, new.scopes, new.limits) == ("acme", "ci", old.scopes, limits)
    assert new.id != old.id
    assert store.lookup(new_secret).limits == limits
    assert store.lookup(old_secret).key_id == old.id
    again, _ = store.rotate(new.id)
    assert store.lookup(new_secret) is None
    with pytest.raises(InvalidState, match="was revoked"):
        store.rotate(new.id)
    with pytest.raises(NotFound):
        store.rotate("nothing")
    assert store.revoke(old.id).revoked_at < new.created_at + timedelta(hours=1)
    assert store.lookup(old_secret) is None
    assert [key.works(datetime.now(UTC)) for key in store.list()] == [False, False, True]
    assert store.list()[2].id == again.id


@pytest.mark.parametrize(
    "limits", [KeyLimits(0.0), KeyLimits(float("nan")), KeyLimits(None, -1), KeyLimits(None, None, 0)]
)
def test_limits_that_allow_nothing_are_refused(store, limits):
    with pytest.raises(InvalidField, match="more than 0"):
        store.create("acme", limits=limits)


def test_a_database_of_the_first_version_is_brought_up_to_date(tmp_path):
    url = f"sqlite:///{tmp_path}/keys.db"
    store = KeyStore(url)
    _, secret = store.create("acme")
    store.close()
    with sqlite3.connect(tmp_path / "keys.db") as connection:
        connection.execute("DROP TABLE audit_log")
        for name in ("requests_per_s", "concurrent_requests", "storage_bytes"):
            connection.execute(f"ALTER TABLE api_keys DROP COLUMN {name}")
        connection.execute("UPDATE auth_version SET version_num = '0001'")
    connection.close()
    store = KeyStore(url)
    assert store.lookup(secret).limits == KeyLimits()
    store.close()


async def test_the_internal_token_carries_the_quota_of_its_caller_and_cannot_be_stripped_of_it():
    authenticator = Authenticator(token="shared")
    entries = internal_token.sign("shared", "acme", storage_bytes=1000)
    assert (await authenticator.authenticate(entries, HERE)).limits == KeyLimits(storage_bytes=1000)
    for changed in ({internal_token.STORAGE_HEADER: "2000"}, {internal_token.STORAGE_HEADER: ""}):
        with pytest.raises(Unauthenticated):
            await authenticator.authenticate(entries | changed, HERE)
