"""Everything tamis raises on purpose.

    TamisError                      exit status 1
    ├── UsageError                  exit status 2: what was asked for can't be done as asked
    │   ├── UnknownReference        no such snapshot, document or model
    │   └── BadInput                a file or column that can't be read
    ├── Declined                    exit status 3: nothing failed, and the answer is no
    ├── ConflictError               another writer moved the name first
    ├── CorruptStore                a stored byte is not what the log says it is
    ├── UnreadableFormat            a store that newer or much older software wrote
    ├── StorageError                the disk is full, or the object store does not answer
    └── QueryError                  the SQL was refused or failed

A message is one or two lines: what was given, what was expected, what to do.
"""

import errno

NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of an OSError: no file can grow here


class TamisError(Exception):
    """A failure that a user can act on; its text is the whole message."""

    exit_status = 1


class UsageError(TamisError):
    """The request itself is wrong."""

    exit_status = 2


class UnknownReference(UsageError):
    """A name that the catalog does not know."""


class BadInput(UsageError):
    """A file or a column that can't be read as asked."""


class Declined(TamisError):
    """What was asked is answered, with reasons against it: a script must be able to tell this from a failure."""

    exit_status = 3


class ConflictError(TamisError):
    """Another writer committed first and the retry could not be reconciled."""


class CorruptStore(TamisError):
    """Bytes on disk differ from what the log recorded."""


class UnreadableFormat(TamisError):
    """The store is sound, but in a format that this version does not read."""


class StorageError(TamisError):
    """A file could not be written or read for a reason outside the store."""


class QueryError(TamisError):
    """The SQL was refused, because it is not one SELECT, or failed in DuckDB, whose message follows."""
