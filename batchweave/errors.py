"""The error tree: what can go wrong, grouped by what a caller does next.

::

    BatchWeaveError
    ├── InvalidInput            fix the call; nothing was written
    │   ├── InvalidName         a stream, namespace, producer or checkpoint name
    │   ├── InvalidMesh         axes, sizes, or a slice outside of them
    │   ├── InvalidBatch        wrong number of slices, an empty slice, a bad position
    │   ├── SchemaMismatch      a column is missing, extra, or of another type
    │   ├── UnsupportedType     a type that the table formats cannot hold
    │   ├── InvalidSettings     a setting or property out of its range
    │   └── TransformFailed     a reader's own function raised on a row
    ├── StreamError             the stream is not what the call needs
    │   ├── StreamNotFound      no such table in the catalog
    │   │   └── StreamMoved     it was registered in another catalog: open it there
    │   ├── StreamExists        the name is taken
    │   ├── NotAStream          a table, but not a BatchWeave stream
    │   ├── UnsupportedFormat   written by a newer BatchWeave, or another table version
    │   ├── StreamSealed        nothing can be published any more
    │   ├── StepReclaimed       the step's data is gone, by policy
    │   ├── StreamStalled       nothing new was published for longer than the reader allows
    │   ├── StepsPinned         a tag or branch of others names steps that should go
    │   ├── CheckpointExists    the checkpoint's ID stands for another step or consumer
    │   ├── CheckpointNotFound  no checkpoint of that ID is registered
    │   └── StreamCorrupted     the table contradicts itself; stop and investigate
    ├── SourceError             the rows to publish stop here; the message names source and row
    │   ├── SourceChanged       it is not what the producer's position was made from
    │   ├── SourceCorrupted     a file of it cannot be read
    │   └── InvalidSample       a row is too large for its batch, or of another schema
    ├── ProducerError           this producer cannot go on as it is
    │   ├── Fenced              a newer opener of the name took over; give up for good
    │   ├── ProducerClosed      ``publish`` after ``close`` or after a failure
    │   ├── PendingLimit        too much is waiting to be committed; retry or slow down
    │   └── NotCommitted        a deadline passed; what is pending stays pending
    └── StoreError              the object store or catalog; retry, or call its operator
        ├── StoreUnavailable    down, throttled, or timed out: the outcome may be unknown
        ├── StoreDenied         credentials missing or not sufficient
        ├── StoreFull           no space left
        ├── ObjectNotFound      a path that is not there
        └── ObjectExists        a path that must not be there, is
"""

from __future__ import annotations


class BatchWeaveError(Exception):
    """Root of everything that BatchWeave raises on purpose."""


class InvalidInput(BatchWeaveError, ValueError):
    """The call's arguments are wrong. Nothing was written."""


class InvalidName(InvalidInput):
    """A name has characters or a length that paths or SQL could not carry safely."""


class InvalidMesh(InvalidInput):
    """A mesh without slices, a bad axis, or a placement that does not divide."""


class InvalidBatch(InvalidInput):
    """A global batch that is not whole: slices missing, empty, or too many."""


class SchemaMismatch(InvalidInput):
    """A slice's columns or types are not those that the stream declares."""


class UnsupportedType(InvalidInput):
    """A type that cannot be kept in an open table without losing information."""


class InvalidSettings(InvalidInput):
    """A setting or property is missing, unknown, or out of its range."""


class TransformFailed(InvalidInput):
    """A transform that the reader was given raised on a row: the message says on which."""


class StreamError(BatchWeaveError):
    """The stream is not in the state that the call needs."""


class StreamNotFound(StreamError, LookupError):
    """The catalog has no table of that name."""


class StreamMoved(StreamNotFound):
    """The stream was registered in another catalog and is only there now."""


class StreamExists(StreamError):
    """The catalog has a table of that name already."""


class NotAStream(StreamError):
    """The table exists, but BatchWeave did not make it."""


class UnsupportedFormat(StreamError):
    """The stream's format version is newer than this BatchWeave can read."""


class StreamSealed(StreamError):
    """The stream was sealed: its last step is known and nothing follows it."""


class StepReclaimed(StreamError, LookupError):
    """The step is below the watermark: its data was reclaimed."""


class StepsPinned(StreamError):
    """A tag or branch that another program made names steps that should be reclaimed."""


class CheckpointExists(StreamError):
    """The checkpoint ID is registered already, for another step or consumer."""


class CheckpointNotFound(StreamError, LookupError):
    """No checkpoint of that ID is registered."""


class StreamStalled(StreamError, TimeoutError):
    """No producer published anything for longer than the reader was told to wait."""


class StreamCorrupted(StreamError):
    """The table contradicts itself (a missing step, a changed file). Never retried."""


class SourceError(BatchWeaveError):
    """A source of samples cannot go on. What was published before is in the stream."""


class SourceChanged(SourceError):
    """The source is not what the position was made from: files or rows are gone or others."""


class SourceCorrupted(SourceError):
    """A file of the source cannot be read."""


class InvalidSample(SourceError):
    """A row that no batch can take: larger than its budget, or of another schema."""


class ProducerError(BatchWeaveError):
    """This producer cannot go on as it is."""


class Fenced(ProducerError):
    """A newer opener of the producer's name took over. Nothing more will be committed here.

    Whether the last attempt before that was committed, the newer opener's position tells.
    """


class ProducerClosed(ProducerError):
    """The producer is closed, or an earlier failure (its cause) stopped it."""


class PendingLimit(ProducerError, TimeoutError):
    """``publish`` waited for room among the pending batches until its deadline."""


class NotCommitted(ProducerError, TimeoutError):
    """A deadline passed before the commit. The batches stay pending; none was dropped."""


class StoreError(BatchWeaveError):
    """The object store or the catalog behind the stream refused or failed."""


class StoreUnavailable(StoreError):
    """Down, throttled, or timed out. A write may or may not have landed."""


class StoreDenied(StoreError):
    """The store refused the credentials, or they do not allow this operation."""


class StoreFull(StoreError):
    """No space is left where the stream's files are written."""


class ObjectNotFound(StoreError, LookupError):
    """No object at that path."""


class ObjectExists(StoreError):
    """An object is at that path already."""
