"""Streams on a real S3 server, and what happens when the network or the credentials fail."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pytest
from pyiceberg.catalog import load_catalog as load_pyiceberg_catalog

import batchweave as bw
from batchweave.demo.object_server import free_ports
from batchweave.errors import ObjectExists, StoreUnavailable
from batchweave.objects import Objects, open_objects
from batchweave.sql.session import Session
from tests.servers.proxy import Proxy
from tests.servers.seaweed import S3Server
from tests.streams import QUICK, TOKENS, numbers, publish_numbers, tokens

IMPLEMENTATION = "batchweave.catalogs.object_store.ObjectStoreCatalog"
OUTAGE_S = 20.0
HASTY = {"s3.connect-timeout": "1", "s3.request-timeout": "1.5"}
PRODUCERS = 4


@pytest.fixture
def properties(s3: S3Server) -> dict[str, str]:
    """A catalog of this test's own."""
    return s3.properties(s3.bucket())


@pytest.fixture
def through(s3: S3Server, proxy: Proxy) -> dict[str, str]:
    """The same through the fault proxy, and with short timeouts."""
    return {**s3.properties(s3.bucket(), endpoint=proxy.endpoint), **HASTY}


def catalog_with(properties: dict[str, str]) -> bw.Catalog:
    return bw.load_catalog("s3", type="object-store", **properties)


def make_stream(properties: dict[str, str], mesh: bw.Mesh | None = None) -> bw.Stream:
    catalog = catalog_with(properties)
    return catalog.create_stream("demo.tokens", schema=TOKENS, mesh=mesh or bw.Mesh(dp=2))


def publish_by_many(properties: dict[str, str], each: int) -> None:
    """As many producers as `PRODUCERS`, each in a thread with a catalog of its own."""
    errors: list[BaseException] = []

    def one(index: int) -> None:
        try:
            stream = catalog_with(properties).load_stream("demo.tokens")
            with stream.producer(f"p{index}", QUICK) as producer:
                publish_numbers(producer, 1000 * index, each)
        except Exception as error:  # noqa: BLE001 - told by the test's own thread
            errors.append(error)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(PRODUCERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []


def race(objects: Objects, path: str, rivals: int) -> tuple[list[int], list[int]]:
    """Let threads create one object at the same time: who was told to have won, who was not told.

    A store may be too slow to answer all of them: then it has not said who won.
    """
    start = threading.Barrier(rivals)
    won: list[int] = []
    lost: list[int] = []
    untold: list[int] = []

    def create(me: int) -> None:
        start.wait()
        try:
            objects.create(path, f"{me}".encode())
            won.append(me)
        except ObjectExists:
            lost.append(me)
        except StoreUnavailable:
            untold.append(me)

    threads = [threading.Thread(target=create, args=(me,)) for me in range(rivals)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) + len(lost) + len(untold) == rivals
    return won, untold


def check_nothing_lost_or_doubled(stream: bw.Stream, each: int) -> None:
    batches = list(stream.batches())
    assert [batch.step for batch in batches] == list(range(PRODUCERS * each))
    found = numbers(stream)
    for index in range(PRODUCERS):
        own = [batch for batch in batches if batch.producer == f"p{index}"]
        assert [batch.sequence for batch in own] == list(range(each))
        assert [found[batch.step] for batch in own] == [1000 * index + n for n in range(each)]


# -- the same as on a folder ---------------------------------------------------------------------


def test_a_stream_on_s3_does_what_a_stream_on_a_folder_does(properties: dict[str, str]) -> None:
    stream = make_stream(properties)
    publish_by_many(properties, 10)
    check_nothing_lost_or_doubled(stream, 10)
    assert numbers(stream, 1) == numbers(stream, 0)
    stream.seal()
    catalog = catalog_with(properties)
    assert catalog.list_streams() == ["demo.tokens"]
    state = catalog.load_stream("demo.tokens").head()
    assert (state.next_step, state.sealed, len(state.producers)) == (40, True, PRODUCERS)
    with pytest.raises(bw.StreamExists):
        make_stream(properties)
    catalog.drop_stream("demo.tokens")
    assert catalog.list_streams() == []
    with pytest.raises(bw.StreamNotFound):
        catalog.load_stream("demo.tokens")


def test_a_rank_fetches_its_slice_and_not_the_others(through: dict[str, str], proxy: Proxy) -> None:
    stream = make_stream(through, bw.Mesh(dp=8))
    slices = [tokens(k, rows=64, width=1024) for k in range(8)]
    with stream.producer("p", bw.ProducerSettings(compression="none")) as producer:
        for _ in range(4):
            producer.publish(slices)
    whole = sum(batch.bytes for batch in stream.batches())
    before = proxy.counts()["bytes_out"]
    read = list(catalog_with(through).load_stream("demo.tokens").read(slice=5))
    assert [int(batch.numpy()["tokens"][0, 0]) for batch in read] == [5] * 4
    assert proxy.counts()["bytes_out"] - before < whole / 8 + 200_000


def test_sql_reads_it_with_the_catalogs_credentials(
    properties: dict[str, str], s3: S3Server
) -> None:
    stream = make_stream(properties)
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 3)
    found = stream.sql("select step, slice, count(*) from samples group by all order by all")
    assert found.fetchall() == [(step, index, 4) for step in range(3) for index in range(2)]
    with Session(stream) as session:
        secrets = session.sql("select * from duckdb_secrets()").fetchall()
    assert len(secrets) == 1
    assert s3.secret_key not in str(secrets)
    folder = stream.table.objects.uri
    assert f"'{folder}/'" in str(secrets), "the slash keeps longer names out"


def test_no_secret_is_in_what_sql_says_of_an_error(
    properties: dict[str, str], s3: S3Server
) -> None:
    stream = make_stream(properties)
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 1)
    for query in (
        "select nothing from samples",
        "select secret_string from duckdb_secrets(redact=false)",
        f"select * from read_text('s3://{properties['warehouse'].split('/')[2]}/none')",
        "select * from read_text('s3://another-bucket/none')",
    ):
        with pytest.raises((bw.InvalidSettings, Exception)) as caught:
            stream.sql(query).fetchall()
        assert s3.secret_key not in str(caught.value)


def test_credentials_with_quotes_in_them_are_values_and_not_sql(
    properties: dict[str, str],
) -> None:
    stream = make_stream(properties)
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 1)
    secret = "x', scope 's3://' --"
    stream.table.head().detail.handle.catalog.properties["s3.secret-access-key"] = secret
    with pytest.raises(bw.StoreDenied) as caught:
        stream.sql("select * from samples")
    assert secret not in str(caught.value)


def test_pyiceberg_reads_it(properties: dict[str, str]) -> None:
    stream = make_stream(properties)
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 3)
    catalog = load_pyiceberg_catalog("any", **{"py-catalog-impl": IMPLEMENTATION, **properties})
    rows = catalog.load_table("demo.tokens").scan(row_filter="step >= 1").to_arrow()
    assert sorted(rows["step"].to_pylist()) == [1] * 8 + [2] * 8
    assert set(pa.compute.list_flatten(rows["tokens"]).to_pylist()) == {1, 2}


def test_more_than_a_page_of_names_is_listed_whole(properties: dict[str, str]) -> None:
    stream = make_stream(properties)
    objects = stream.table.objects
    for number in range(1050):
        objects.create(f"metadata/a-{number:05d}.avro", b"x")
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 2)
    assert len(objects.children("metadata")[1]) > 1050
    assert sum(1 for _ in objects.list("metadata")) > 1050
    assert numbers(catalog_with(properties).load_stream("demo.tokens")) == [0, 1]
    catalog_with(properties).drop_stream("demo.tokens")
    assert list(objects.list()) == []


def test_of_many_creators_of_an_object_exactly_one_wins(properties: dict[str, str]) -> None:
    objects = open_objects(properties["warehouse"], properties)
    won, untold = race(objects, "one", 16)
    written = int(bytes(objects.get("one")[0]))
    assert won == [written] or (won == [] and written in untold)


# -- a network that loses answers ------------------------------------------------------------------


def test_lost_answers_lose_and_double_nothing(through: dict[str, str], proxy: Proxy) -> None:
    stream = make_stream(through)
    proxy.set(drop_every=3)
    publish_by_many(through, 25)
    proxy.heal()
    assert proxy.counts()["dropped"] > 25
    check_nothing_lost_or_doubled(stream, 25)


def test_refused_and_late_answers_lose_and_double_nothing(
    through: dict[str, str], proxy: Proxy
) -> None:
    stream = make_stream(through)
    proxy.set(refuse=0.2, delay=0.05, delay_s=2.0)  # later than the request's timeout
    publish_by_many(through, 10)
    proxy.heal()
    counts = proxy.counts()
    assert counts["refused"] > 5
    assert counts["delayed"] > 0
    check_nothing_lost_or_doubled(stream, 10)


def test_a_conditional_write_is_sent_once(through: dict[str, str], proxy: Proxy) -> None:
    objects = open_objects(through["warehouse"], through)
    proxy.set(drop_every=1)
    with pytest.raises(bw.StoreUnavailable):
        objects.create("once", b"x")
    assert proxy.counts()["PUT"] == 1
    proxy.heal()
    assert bytes(objects.get("once")[0]) == b"x"


def test_a_stream_whose_creation_was_not_acknowledged_is_created(
    through: dict[str, str], proxy: Proxy
) -> None:
    catalog = catalog_with(through)
    proxy.set(drop_every=1)
    stream = catalog.create_stream("demo.tokens", schema=TOKENS, mesh=bw.Mesh(dp=1))
    proxy.heal()
    assert stream.head().next_step == 0
    with pytest.raises(bw.StreamExists):
        catalog.create_stream("demo.tokens", schema=TOKENS, mesh=bw.Mesh(dp=1))


@pytest.mark.parametrize("fault", ["down", "silent"])
def test_an_outage_is_told_and_what_is_pending_is_committed_afterwards(
    through: dict[str, str], proxy: Proxy, fault: str
) -> None:
    stream = make_stream(through)
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 2)
        producer.flush()
        proxy.set(**{fault: True})
        publish_numbers(producer, 2, 3)
        with pytest.raises(bw.NotCommitted, match=r"3 batches of producer 'p'.*the store failed"):
            producer.flush(timeout_s=5)
        began = time.monotonic()
        with pytest.raises(bw.StoreUnavailable, match=r"the store failed|could not be loaded"):
            catalog_with(through).load_stream("demo.tokens")
        assert time.monotonic() - began < OUTAGE_S
        proxy.heal()
        if fault == "silent":
            proxy.set(down=True)  # what hangs, hangs for good
            proxy.heal()
        producer.flush(timeout_s=30)
    assert numbers(stream) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize("fault", ["down", "silent", "refused"])
def test_an_outage_is_told_within_seconds_without_any_setting(
    s3: S3Server, proxy: Proxy, fault: str
) -> None:
    endpoint = proxy.endpoint
    if fault == "refused":
        endpoint = f"http://127.0.0.1:{free_ports(1)[0]}"
    else:
        proxy.set(**{fault: True})
    properties = s3.properties(s3.bucket(), endpoint=endpoint)
    objects = open_objects(properties["warehouse"], properties)
    calls: list[Callable[[], object]] = [
        lambda: objects.get("x"),
        lambda: objects.create("x", b"x"),
        lambda: objects.children(),
    ]
    errors: list[Exception] = []

    def run(call: Callable[[], object]) -> None:
        try:
            call()
        except bw.StoreUnavailable as error:
            errors.append(error)

    began = time.monotonic()
    threads = [threading.Thread(target=run, args=(call,)) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(errors) == 3
    assert time.monotonic() - began < OUTAGE_S


# -- credentials -----------------------------------------------------------------------------------


@pytest.fixture
def aws(s3: S3Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """AWS configuration of this test's own, with the writer's keys as profile ``weaver``."""
    path = tmp_path / "credentials"
    path.write_text(
        f"[weaver]\naws_access_key_id = {s3.access_key}\n"
        f"aws_secret_access_key = {s3.secret_key}\nregion = us-east-1\n"
    )
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(path))
    return path


def without_keys(properties: dict[str, str]) -> dict[str, str]:
    return {name: text for name, text in properties.items() if "key" not in name}


@pytest.mark.usefixtures("aws")
@pytest.mark.parametrize("name", ["s3.profile-name", "client.profile-name"])
def test_a_profile_signs_where_no_keys_are_given(properties: dict[str, str], name: str) -> None:
    stream = make_stream({**without_keys(properties), name: "weaver"})
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 2)
    assert numbers(stream) == [0, 1]
    assert stream.sql("select count(*) from samples").fetchone() == (16,)


def test_the_environment_signs_where_nothing_is_given(
    properties: dict[str, str], s3: S3Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", s3.access_key)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", s3.secret_key)
    assert make_stream(without_keys(properties)).head().next_step == 0


def test_keys_that_are_given_win_over_the_environment(
    properties: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "someone-else")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    monkeypatch.setenv("AWS_SESSION_TOKEN", "stale")
    stream = make_stream(properties)
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 1)
    assert stream.sql("select count(*) from samples").fetchone() == (8,)


def test_no_credentials_at_all_are_told_at_once(properties: dict[str, str]) -> None:
    with pytest.raises(bw.StoreDenied, match="no S3 credentials were found"):
        catalog_with(without_keys(properties))


@pytest.mark.usefixtures("aws")
def test_an_unknown_profile_is_told_at_once(properties: dict[str, str]) -> None:
    with pytest.raises(bw.InvalidSettings, match="no AWS profile 'nobody'"):
        catalog_with({**without_keys(properties), "s3.profile-name": "nobody"})


@pytest.mark.parametrize("wrong", ["s3.access-key-id", "s3.secret-access-key"])
def test_wrong_credentials_are_told_and_not_repeated(
    properties: dict[str, str], s3: S3Server, wrong: str
) -> None:
    stream = make_stream(properties)
    mine = {**properties, wrong: "no-such-value-that-anybody-has"}
    calls: list[Callable[[], object]] = [
        lambda: make_stream(mine),
        lambda: catalog_with(mine).load_stream("demo.tokens"),
        lambda: catalog_with(mine).list_streams(),
    ]
    for call in calls:
        with pytest.raises(bw.StoreDenied) as caught:
            call()
        text = f"{caught.value!r} {caught.value.__cause__!r}"
        assert mine["s3.secret-access-key"] not in text
        assert s3.secret_key not in text
    assert s3.secret_key not in repr(stream.table.objects) + repr(catalog_with(mine))


def test_half_a_pair_of_keys_is_refused(properties: dict[str, str]) -> None:
    del properties["s3.secret-access-key"]
    with pytest.raises(bw.InvalidSettings, match="go together"):
        catalog_with(properties)


@pytest.mark.parametrize("name", ["s3.connect-timeout", "s3.request-timeout"])
@pytest.mark.parametrize("text", ["soon", "0", "-1", "nan"])
def test_a_timeout_that_is_no_time_is_refused(
    properties: dict[str, str], name: str, text: str
) -> None:
    with pytest.raises(bw.InvalidSettings, match=name):
        catalog_with({**properties, name: text})


@pytest.mark.parametrize("kind", ["object-store", "delta"])
def test_a_missing_bucket_is_told_by_name(s3: S3Server, kind: str) -> None:
    catalog = bw.load_catalog("s3", type=kind, **s3.properties("no-such-bucket"))
    calls: list[Callable[[], object]] = [
        lambda: catalog.create_stream("demo.tokens", schema=TOKENS, mesh=bw.Mesh(dp=2)),
        lambda: catalog.load_stream("demo.tokens"),
        lambda: catalog.list_streams(),
    ]
    for call in calls:
        with pytest.raises(
            bw.StoreDenied, match=r"s3://no-such-bucket/.*bucket does not exist.*Create it"
        ):
            call()


def test_who_may_only_read_reads_and_cannot_publish(
    properties: dict[str, str], s3: S3Server
) -> None:
    stream = make_stream(properties)
    with stream.producer("p", QUICK) as producer:
        publish_numbers(producer, 0, 3)
    bucket = properties["warehouse"].split("/")[2]
    reading = catalog_with(s3.properties(bucket, keys=s3.reader)).load_stream("demo.tokens")
    assert numbers(reading) == [0, 1, 2]
    assert reading.sql("select count(*) from samples").fetchone() == (24,)
    with pytest.raises(bw.StoreDenied) as caught:
        reading.producer("q")
    assert s3.reader.secret_key not in str(caught.value)
    with pytest.raises(bw.StoreDenied):
        reading.seal()
    assert stream.head().sealed is False
