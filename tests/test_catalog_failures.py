"""What is promised when a catalog fails, refuses, forgets to answer, or is asked for nonsense."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
from psycopg import sql
from pyiceberg.catalog.sql import SqlCatalog
from sqlalchemy import event
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Session as Transaction

import batchweave as bw
from batchweave.catalogs.failures import as_store_error, is_refusal, without_secrets
from batchweave.catalogs.iceberg import IcebergTable
from batchweave.catalogs.opening import open_pyiceberg
from batchweave.demo.object_server import free_ports
from batchweave.errors import (
    BatchWeaveError,
    InvalidSettings,
    StoreDenied,
    StoreError,
    StoreUnavailable,
    StreamNotFound,
)
from batchweave.table import Head, Lost, Unknown
from tests.servers.catalogs import glue_properties, rest_properties, table_bucket
from tests.servers.glue import GlueServer
from tests.servers.postgres import PostgresServer
from tests.servers.proxy import Proxy
from tests.servers.seaweed import HOST, REGION, S3Server
from tests.servers.tokens import ExpiringTokens
from tests.streams import QUICK, TOKENS, numbers, publish_numbers
from tests.writer import Writer

NAME = "demo.tokens"
PATIENCE_S = 60.0

Properties = Callable[[str], dict[str, str]]


def _make(properties: dict[str, Any]) -> bw.Stream:
    catalog = bw.load_catalog("catalog", **properties)
    return catalog.create_stream(NAME, schema=TOKENS, mesh=bw.Mesh(dp=2))


def _writer(properties: dict[str, Any], name: str = "p") -> Writer:
    table = bw.load_catalog("catalog", **properties).load_stream(NAME).table
    assert isinstance(table, IcebergTable)
    return Writer(table, name)


def _check(stream: bw.Stream, producers: dict[str, int]) -> None:
    """Each batch once, in order, and all that the live metadata names can be read."""
    entries = list(stream.batches())
    assert [one.step for one in entries] == list(range(sum(producers.values())))
    for name, count in producers.items():
        assert [one.sequence for one in entries if one.producer == name] == list(range(count))
    head: Head = stream.table.head()
    for snapshot in head.detail.metadata.snapshots:
        for manifest in snapshot.manifests(head.detail.handle.io):
            assert manifest.fetch_manifest_entry(head.detail.handle.io)


def _port(uri: str) -> int:
    return int(uri.rpartition(":")[2])


# -- outcomes that nobody told -----------------------------------------------------------------


@pytest.fixture
def rest(s3: S3Server) -> Iterator[tuple[dict[str, str], Proxy]]:
    """A REST catalog with a stream, and a fault proxy in front of the catalog alone."""
    bucket = table_bucket(s3)
    _make(rest_properties(s3, bucket))
    with Proxy(_port(s3.iceberg_uri)) as front:
        yield rest_properties(s3, bucket, uri=front.endpoint), front


FAULTS: dict[str, tuple[dict[str, Any], bool | None, type[Lost] | type[Unknown]]] = {
    # fault, whether the commit lands, what the attempt says
    "answer lost": ({"drop_every": 1}, True, Unknown),
    "500": ({"refuse": 1.0, "refuse_status": 500}, False, Unknown),
    "502": ({"refuse": 1.0, "refuse_status": 502}, False, Unknown),
    "503": ({"refuse": 1.0, "refuse_status": 503}, False, Unknown),
    "504": ({"refuse": 1.0, "refuse_status": 504}, False, Unknown),
    "429": ({"refuse": 1.0, "refuse_status": 429}, False, Unknown),
    "409": ({"refuse": 1.0, "refuse_status": 409}, False, Lost),
    "no answer in time": ({"delay": 1.0, "delay_s": 3.0}, True, Unknown),
    "down": ({"down": True}, False, Unknown),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_rest_commit_without_an_answer_is_resolved_by_reading(
    rest: tuple[dict[str, str], Proxy], s3: S3Server, fault: str
) -> None:
    properties, front = rest
    changes, lands, said = FAULTS[fault]
    writer = _writer({**properties, "rest.request-timeout": "1"})
    writer.commit(2)
    writer.stage()
    front.set(**changes)
    posts = front.counts()["POST"]
    assert isinstance(writer.session.attempt(), said)
    if fault != "down":
        assert front.counts()["POST"] == posts + 1, "nothing is sent twice"
    assert writer.steps == {0: 0, 1: 1}, "nothing is claimed before the head was read"
    front.heal()
    _until(lambda: writer.session.attempt() is None or not writer.session.staged)
    assert writer.steps == {0: 0, 1: 1, 2: 2}
    assert writer.session.staged == []
    if lands:
        assert writer.table.head().version == 4
    writer.commit()
    bucket = properties["warehouse"].removeprefix("s3://")
    direct = bw.load_catalog("direct", **rest_properties(s3, bucket)).load_stream(NAME)
    _check(direct, {"p": 4})


def _until(done: Callable[[], bool]) -> None:
    until_s = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < until_s
        time.sleep(0.05)


def test_a_conflict_with_ones_own_earlier_attempt_is_not_a_loss(
    rest: tuple[dict[str, str], Proxy],
) -> None:
    """As a gateway makes it that sends a request again whose answer it lost."""
    properties, _ = rest
    writer = _writer(properties)
    writer.commit()
    writer.stage()
    commit_table = writer.table._catalog.commit_table

    def twice(*arguments: Any) -> Any:
        commit_table(*arguments)
        return commit_table(*arguments)

    writer.table._catalog.commit_table = twice  # type: ignore[assignment, method-assign]
    assert isinstance(writer.session.attempt(), Lost)
    writer.table._catalog.commit_table = commit_table  # type: ignore[method-assign]
    assert writer.session.attempt() is None
    assert writer.steps == {0: 0, 1: 1}


def test_a_producer_goes_on_through_a_bad_network(
    rest: tuple[dict[str, str], Proxy], s3: S3Server
) -> None:
    properties, front = rest
    stream = bw.load_catalog("c", **properties, **{"rest.request-timeout": "5"}).load_stream(NAME)
    with stream.producer("p", QUICK) as producer:
        front.set(drop=0.3, refuse=0.3)
        for number in range(12):
            publish_numbers(producer, number, 1)
            producer.flush(PATIENCE_S)
        front.heal()
    _check(stream, {"p": 12})
    assert numbers(stream) == list(range(12))


def test_a_catalog_that_is_silent_holds_nobody_for_ever(
    rest: tuple[dict[str, str], Proxy],
) -> None:
    properties, front = rest
    limits = {"rest.request-timeout": "0.5", "rest.connect-timeout": "0.5"}
    stream = bw.load_catalog("catalog", **properties, **limits).load_stream(NAME)
    front.set(silent=True)
    with pytest.raises(StoreUnavailable, match="timed out"):
        stream.head()
    with pytest.raises(StoreUnavailable, match="timed out"):
        bw.load_catalog("catalog", **properties, **limits)


@pytest.mark.parametrize("kind", ["sqlite", "postgres"])
def test_an_error_after_the_databases_commit_is_resolved_by_reading(
    kind: str, catalog_properties: Properties
) -> None:
    properties = catalog_properties(kind)
    stream = _make(properties)
    writer = _writer(properties)
    writer.commit()
    writer.stage()

    def lose(session: Transaction) -> None:
        raise OperationalError("COMMIT", {}, Exception("server closed the connection"))

    event.listen(Transaction, "after_commit", lose)
    try:
        assert isinstance(writer.session.attempt(), Unknown)
    finally:
        event.remove(Transaction, "after_commit", lose)
    assert writer.session.attempt() is None
    assert writer.steps == {0: 0, 1: 1}
    writer.commit()
    _check(stream, {"p": 3})


def test_a_database_that_ends_its_connections_is_asked_again(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    database = postgres.database()
    properties = {"type": "sql", "uri": postgres.uri(database), "warehouse": str(tmp_path)}
    stream = _make(properties)
    writer = _writer(properties)
    writer.commit(2)
    kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = {}"
    postgres.execute(sql.SQL(kill).format(sql.Literal(database)))
    postgres.wait_until_left(database)
    writer.stage()
    outcome = writer.session.attempt()
    assert isinstance(outcome, Unknown)
    assert isinstance(outcome.cause, StoreUnavailable)
    _until(lambda: _landed(writer))
    assert writer.steps == {0: 0, 1: 1, 2: 2}
    _check(stream, {"p": 3})


def _landed(writer: Writer) -> bool:
    try:
        return writer.session.attempt() is None or not writer.session.staged
    except StoreUnavailable:
        return False


def test_a_glue_commit_whose_answer_was_lost_is_resolved_by_reading(
    glue: GlueServer, s3: S3Server, tmp_path: Path
) -> None:
    """botocore sends it again, and Glue says that its version is old: ours, and not a loss."""
    with Proxy(glue.port) as front:
        properties = glue_properties(glue, s3, endpoint=front.endpoint)
        catalog = bw.load_catalog("catalog", **properties)
        name = f"lost_{abs(hash(str(tmp_path)))}.tokens"
        stream = catalog.create_stream(name, schema=TOKENS, mesh=bw.Mesh(dp=2))
        assert isinstance(stream.table, IcebergTable)
        writer = Writer(stream.table, "p")
        writer.commit(2)
        writer.stage()
        front.set(drop_every=3)  # GetTable, GetDatabase, UpdateTable
        assert isinstance(writer.session.attempt(), Lost)
        assert front.counts()["dropped"] == 1
        front.heal()
        assert writer.session.attempt() is None
        assert writer.steps == {0: 0, 1: 1, 2: 2}
        _check(stream, {"p": 3})


# -- tokens ------------------------------------------------------------------------------------


@pytest.fixture
def front(s3: S3Server) -> Iterator[ExpiringTokens]:
    with ExpiringTokens(_port(s3.iceberg_uri), uses=6) as front:
        yield front


def test_a_stream_outlives_its_tokens(s3: S3Server, front: ExpiringTokens) -> None:
    properties = rest_properties(s3, table_bucket(s3), uri=front.uri)
    stream = _make(properties)
    with stream.producer("p", QUICK) as producer, stream.producer("q", QUICK) as other:
        for number in range(8):
            publish_numbers(producer, number, 1)
            publish_numbers(other, number, 1)
            producer.flush(PATIENCE_S)
            other.flush(PATIENCE_S)
    _check(stream, {"p": 8, "q": 8})
    assert front.refused >= 3
    assert front.fetched >= front.refused


def test_a_token_that_cannot_be_renewed_is_told_and_nothing_is_lost(
    s3: S3Server, front: ExpiringTokens
) -> None:
    properties = rest_properties(s3, table_bucket(s3), uri=front.uri)
    stream = _make(properties)
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 1)
        producer.flush(PATIENCE_S)
        front.uses, front.renews = 0, False
        publish_numbers(producer, 1, 1)
        with pytest.raises(StoreDenied, match="the client was removed") as caught:
            producer.flush(PATIENCE_S)
        assert s3.secret_key not in str(caught.value)
        front.uses, front.renews = 1000, True
        producer.flush(PATIENCE_S)
    _check(stream, {"p": 2})
    assert numbers(stream) == [0, 1]


def test_tokens_of_an_auth_manager_are_renewed_before_they_expire(
    s3: S3Server, front: ExpiringTokens
) -> None:
    front.uses = 1000
    front.expires_in = 60  # pyiceberg renews a minute before: for each request
    given = rest_properties(s3, table_bucket(s3), uri=front.uri)
    del given["credential"], given["oauth2-server-uri"]
    client = {
        "client_id": s3.access_key,
        "client_secret": s3.secret_key,
        "token_url": f"{front.uri}/v1/oauth/tokens",
    }
    properties: dict[str, Any] = {**given, "auth": {"type": "oauth2", "oauth2": client}}
    stream = _make(properties)
    fetched = front.fetched
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 3)
        producer.flush(PATIENCE_S)
    assert front.fetched > fetched
    assert front.refused == 0
    _check(stream, {"p": 3})


@pytest.mark.filterwarnings("ignore:.*OAuth2 server URI:DeprecationWarning")
def test_a_lone_token_that_expired_is_a_refusal(s3: S3Server, front: ExpiringTokens) -> None:
    bucket = table_bucket(s3)
    stream = _make(rest_properties(s3, bucket))
    lone = {**rest_properties(s3, bucket, uri=front.uri), "token": "worn"}
    del lone["credential"]
    front.uses = 0
    with pytest.raises(StoreDenied, match="expired") as caught:
        bw.load_catalog("catalog", **lone)
    assert "worn" not in str(caught.value)
    assert stream.head().next_step == 0


# -- who may not -------------------------------------------------------------------------------


def test_a_rest_reader_reads_and_cannot_produce(s3: S3Server) -> None:
    bucket = table_bucket(s3)
    stream = _make(rest_properties(s3, bucket))
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 3)
    _let_read(s3, bucket)
    catalog = bw.load_catalog("reader", **rest_properties(s3, bucket, keys=s3.reader))
    assert catalog.list_streams() == [NAME]
    theirs = catalog.load_stream(NAME)
    assert numbers(theirs) == [0, 1, 2]
    with pytest.raises(StoreDenied):
        theirs.producer("q", QUICK)
    assert stream.head().producers.keys() == {"p"}


def _let_read(s3: S3Server, bucket: str) -> None:
    """Say that everybody may read the tables of a bucket: the server asks for it."""
    arn = f"arn:aws:s3tables:{REGION}:writer:bucket/{bucket}"
    allow = '"Effect": "Allow", "Principal": "*", "Action": ["s3tables:Get*", "s3tables:List*"]'
    boto3.client(
        "s3tables",
        endpoint_url=s3.endpoint,
        aws_access_key_id=s3.access_key,
        aws_secret_access_key=s3.secret_key,
        region_name=REGION,
    ).put_table_bucket_policy(
        tableBucketARN=arn,
        resourcePolicy='{"Version": "2012-10-17", "Statement": [{'
        f'{allow}, "Resource": ["{arn}", "{arn}/*"]'
        "}]}",
    )


def test_a_role_that_may_select_reads_and_cannot_produce(
    postgres: PostgresServer, tmp_path: Path
) -> None:
    database = postgres.database()
    where = {"type": "sql", "warehouse": str(tmp_path)}
    stream = _make({**where, "uri": postgres.uri(database)})
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 3)
    name, password = postgres.reader(database)
    uri = postgres.uri(database, user=name, password=password)
    catalog = bw.load_catalog("catalog", **where, uri=uri)
    assert catalog.list_streams() == [NAME]
    theirs = catalog.load_stream(NAME)
    assert numbers(theirs) == [0, 1, 2]
    with pytest.raises(StoreDenied, match="permission denied") as caught:
        theirs.producer("q", QUICK)
    assert password not in str(caught.value)
    with pytest.raises(StoreDenied, match="permission denied"):
        catalog.create_stream("demo.other", schema=TOKENS, mesh=bw.Mesh(dp=2))
    assert catalog.list_streams() == [NAME]


def test_a_database_file_opened_for_reading_reads_and_cannot_produce(tmp_path: Path) -> None:
    where = {"type": "sql", "warehouse": str(tmp_path)}
    stream = _make({**where, "uri": f"sqlite:///{tmp_path}/catalog.db"})
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 3)
    uri = f"sqlite:///file:{tmp_path}/catalog.db?mode=ro&uri=true"
    theirs = bw.load_catalog("catalog", **where, uri=uri).load_stream(NAME)
    assert numbers(theirs) == [0, 1, 2]
    with pytest.raises(StoreDenied, match="readonly database"):
        theirs.producer("q", QUICK)


# -- what is refused at the door ---------------------------------------------------------------


def test_a_wrong_client_secret_is_a_refusal(s3: S3Server) -> None:
    properties = rest_properties(s3, table_bucket(s3))
    wrong = {**properties, "credential": f"{s3.access_key}:not-the-secret"}
    with pytest.raises(StoreDenied, match="Invalid client credentials") as caught:
        bw.load_catalog("catalog", **wrong)
    assert "not-the-secret" not in str(caught.value)


@pytest.mark.parametrize("password", ["not-the-password", "p%40ss%2Fword"])
def test_a_wrong_database_password_is_a_refusal_that_does_not_repeat_it(
    postgres: PostgresServer, tmp_path: Path, password: str
) -> None:
    uri = postgres.uri(postgres.database(), password=password)
    with pytest.raises(StoreDenied, match="password authentication failed") as caught:
        bw.load_catalog("catalog", type="sql", uri=uri, warehouse=str(tmp_path))
    _check_hidden(caught.value, password)


def test_a_database_that_cannot_be_reached_is_told(tmp_path: Path) -> None:
    (port,) = free_ports(1)
    uri = f"postgresql+psycopg://me:hidden-word@{HOST}:{port}/none"
    with pytest.raises(StoreUnavailable, match="connection") as caught:
        bw.load_catalog("catalog", type="sql", uri=uri, warehouse=str(tmp_path))
    _check_hidden(caught.value, "hidden-word")


def test_a_database_that_does_not_exist_is_told(postgres: PostgresServer, tmp_path: Path) -> None:
    uri = postgres.uri("nowhere")
    with pytest.raises(StoreError, match='database "nowhere" does not exist') as caught:
        bw.load_catalog("catalog", type="sql", uri=uri, warehouse=str(tmp_path))
    _check_hidden(caught.value, postgres.password)


def test_a_rest_server_that_cannot_be_reached_is_told() -> None:
    (port,) = free_ports(1)
    uri = f"http://{HOST}:{port}"
    with pytest.raises(StoreUnavailable, match="refused"):
        bw.load_catalog(
            "catalog",
            **{"type": "rest", "uri": uri, "credential": "a:b", "oauth2-server-uri": f"{uri}/t"},
        )


def _check_hidden(error: BaseException, secret: str) -> None:
    seen: BaseException | None = error
    while seen is not None:
        assert secret not in str(seen)
        seen = seen.__cause__ or (None if seen.__suppress_context__ else seen.__context__)


@pytest.mark.parametrize(
    ("properties", "said"),
    [
        ({}, "is not configured"),
        ({"type": "oracle"}, "type is one of object-store, delta, sql, rest, glue"),
        ({"type": "sql"}, "needs a uri"),
        ({"type": "rest"}, "needs a uri"),
        ({"type": "sql", "uri": "not a uri"}, "uri: "),
        ({"type": "sql", "uri": "postgresql+nothing://me:hidden-word@h/d"}, "nothing"),
        ({"type": "sql", "uri": "mysql+pymysql://me:hidden-word@h/d"}, "install the driver"),
        ({"type": "sql", "uri": "postgresql+psycopg://me:hidden-word@h:port/d"}, "cannot be"),
        ({"uri": "gopher://me:hidden-word@h/d"}, "infer the catalog type"),
        ({"type": "rest", "uri": "http://h", "rest.request-timeout": "soon"}, "seconds above zero"),
        ({"py-catalog-impl": "no.such.Catalog"}, "no.such.Catalog"),
        ({"type": "object-store"}, "needs a warehouse"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(properties: dict[str, str], said: str) -> None:
    with pytest.raises(InvalidSettings, match=said) as caught:
        bw.load_catalog("catalog", **properties)
    _check_hidden(caught.value, "hidden-word")


def test_a_table_bucket_that_does_not_exist_is_told(s3: S3Server) -> None:
    catalog = bw.load_catalog("catalog", **rest_properties(s3, "no-such-bucket"))
    with pytest.raises(StoreError, match="table bucket no-such-bucket not found"):
        catalog.create_stream(NAME, schema=TOKENS, mesh=bw.Mesh(dp=2))
    with pytest.raises(StoreError, match="table bucket no-such-bucket not found"):
        catalog.list_streams()
    with pytest.raises(StreamNotFound):
        catalog.load_stream(NAME)


def test_a_warehouse_bucket_that_does_not_exist_is_told(s3: S3Server, tmp_path: Path) -> None:
    where = {**s3.properties("no-such-bucket"), "uri": f"sqlite:///{tmp_path}/catalog.db"}
    catalog = bw.load_catalog("catalog", type="sql", **where)
    with pytest.raises(StoreDenied, match="bucket does not exist"):
        catalog.create_stream(NAME, schema=TOKENS, mesh=bw.Mesh(dp=2))
    assert catalog.list_streams() == []


def test_a_catalog_without_inner_namespaces_says_so(glue: GlueServer, s3: S3Server) -> None:
    catalog = bw.load_catalog("catalog", **glue_properties(glue, s3))
    with pytest.raises(bw.InvalidName, match="namespaces inside of namespaces"):
        catalog.create_stream("outer.inner.tokens", schema=TOKENS, mesh=bw.Mesh(dp=2))


# -- words for what catalogs say ---------------------------------------------------------------


@pytest.mark.parametrize(
    ("properties", "text"),
    [
        ({"credential": "me:s3cret"}, "me:s3cret is wrong, and so is s3cret"),
        ({"token": "t0ken-1"}, "Bearer t0ken-1"),
        ({"uri": "postgresql://me:p%40ss@h/d"}, "cannot parse postgresql://me:p%40ss@h/d, p@ss"),
        ({"s3.secret-access-key": "abcdef"}, "key abcdef"),
        ({"auth": {"oauth2": {"client_secret": "abcdef"}}}, "client abcdef"),
    ],
)
def test_what_is_secret_is_hidden(properties: dict[str, Any], text: str) -> None:
    hidden = without_secrets(text, properties)
    assert "***" in hidden
    for secret in ("s3cret", "t0ken-1", "p%40ss", "p@ss", "abcdef"):
        assert secret not in hidden
    error = as_store_error(ValueError(f"{text}\nand more"), "it failed", properties)
    assert str(error) == f"it failed: {hidden}"


def test_what_is_no_secret_is_shown() -> None:
    properties = {"s3.access-key-id": "AKID", "oauth2-server-uri": "http://h/tokens", "uri": "x"}
    assert without_secrets("AKID at http://h/tokens", properties) == "AKID at http://h/tokens"


def test_every_message_of_a_refusal_says_what_to_do() -> None:
    error = as_store_error(PermissionError("no"), "it failed")
    assert isinstance(error, StoreDenied)
    assert isinstance(error, BatchWeaveError)
    assert "Renew the credentials" in str(error)
    assert not is_refusal(ValueError("anything"))
    assert isinstance(as_store_error(ValueError(""), "it failed"), StoreUnavailable)


def test_connections_are_given_back(postgres: PostgresServer, tmp_path: Path) -> None:
    database = postgres.database()
    properties = {"type": "sql", "uri": postgres.uri(database), "warehouse": str(tmp_path)}
    catalog = open_pyiceberg("catalog", properties)
    assert isinstance(catalog, SqlCatalog)
    catalog.list_namespaces()
    del catalog
    postgres.wait_until_left(database)
