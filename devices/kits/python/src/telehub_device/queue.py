"""Where batches wait until they are safe. Each has its number from the moment it is put in; a
number is *used* once it has been sent. No number is ever used for other content."""

import secrets
import sqlite3
from bisect import bisect_right
from dataclasses import dataclass

RESERVE = 32
"""A queue on disk notes numbers as used this far ahead, so that not every send costs a write."""


@dataclass
class Entry:
    """A batch: its number, when it was made (by the clock of the core), its pack in CBOR, and
    whatever its maker wants to know it by."""

    seq: int
    made: float
    pack: bytes
    tag: object = None


class MemoryQueue:
    """Holds batches in memory. Its stream is new with every queue, so its counter may begin at 1."""

    persistent = False

    def __init__(self, capacity=1000):
        if capacity < 1:
            raise ValueError("capacity: expected at least 1 batch")
        self.capacity = capacity
        self.stream = secrets.token_hex(8)
        self.used = 0
        self._last = 0
        self._entries = []

    def __len__(self):
        return len(self._entries)

    @property
    def next(self):
        """The last number used, plus one."""
        return self.used + 1

    def push(self, pack, made, tag=None):
        """Takes a batch; returns it."""
        self._last += 1
        entry = Entry(self._last, made, pack, tag)
        self._entries.append(entry)
        return entry

    def after(self, seq):
        """The first batch above a number."""
        index = bisect_right(self._entries, seq, key=lambda entry: entry.seq)
        return self._entries[index] if index < len(self._entries) else None

    def use(self, seq):
        """The number is about to be sent."""
        self.used = max(self.used, seq)

    def safe(self, seq):
        """Everything up to the number is safe: forget it."""
        index = bisect_right(self._entries, seq, key=lambda entry: entry.seq)
        del self._entries[:index]

    def remove(self, seq):
        """Takes one batch out; returns it, or nothing."""
        index = bisect_right(self._entries, seq - 1, key=lambda entry: entry.seq)
        if index < len(self._entries) and self._entries[index].seq == seq:
            return self._entries.pop(index)
        return None

    def oldest(self):
        """The first batch."""
        return self._entries[0] if self._entries else None

    def renumber(self, above):
        """Gives everything that is held new numbers above this one, in order."""
        for offset, entry in enumerate(self._entries, 1):
            entry.seq = above + offset
        self._last = above + len(self._entries)
        self.used = max(self.used, above)

    def again(self, seq):
        """Gives one batch a new number, behind all others."""
        entry = self.remove(seq)
        return entry and self.push(entry.pack, entry.made, entry.tag)


class SqliteQueue:
    """Holds batches in a file, over restarts and power cuts, with the stream and the counter.

    Each `push` is one synced transaction; on flash, put several readings into a batch. A file
    that is damaged is set aside as `NAME.damaged`, and a new one, with a new stream, begins.
    """

    persistent = True

    def __init__(self, path, capacity=100_000):
        if capacity < 1:
            raise ValueError("capacity: expected at least 1 batch")
        self.capacity = capacity
        try:
            self._open(path)
        except sqlite3.DatabaseError as error:
            if isinstance(error, sqlite3.OperationalError):
                raise
            import os

            for end in ("", "-wal", "-shm"):
                if os.path.exists(f"{path}{end}"):
                    os.replace(f"{path}{end}", f"{path}{end}.damaged")
            self._open(path)

    def _open(self, path):
        self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        run = self._db.execute
        run("PRAGMA journal_mode=WAL")
        # A number that was given and forgotten would be given again: no transaction may be lost.
        run("PRAGMA synchronous=FULL")
        run("CREATE TABLE IF NOT EXISTS batch (seq INTEGER PRIMARY KEY, made REAL, pack BLOB, tag)")
        run("CREATE TABLE IF NOT EXISTS stream (name TEXT, last INTEGER, used INTEGER)")
        row = run("SELECT name, last, used FROM stream").fetchone()
        if row is None:
            row = (secrets.token_hex(8), 0, 0)
            run("INSERT INTO stream VALUES (?, ?, ?)", row)
        self.stream, self._last, self.used = row
        self._count = run("SELECT count(*) FROM batch").fetchone()[0]

    def __len__(self):
        return self._count

    @property
    def next(self):
        """The last number used, plus one; after a restart perhaps some numbers more."""
        return self.used + 1

    def _write(self, *statements):
        self._db.execute("BEGIN IMMEDIATE")
        try:
            for statement, values in statements:
                self._db.execute(statement, values)
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    def push(self, pack, made, tag=None):
        """Takes a batch; returns it once it is on disk."""
        entry = Entry(self._last + 1, made, pack, tag)
        self._write(
            ("INSERT INTO batch VALUES (?, ?, ?, ?)", (entry.seq, made, pack, tag)),
            ("UPDATE stream SET last = ?", (entry.seq,)),
        )
        self._last = entry.seq
        self._count += 1
        return entry

    def _one(self, statement, *values):
        row = self._db.execute(statement, values).fetchone()
        return Entry(*row) if row else None

    def after(self, seq):
        """The first batch above a number."""
        return self._one("SELECT * FROM batch WHERE seq > ? ORDER BY seq LIMIT 1", seq)

    def oldest(self):
        """The first batch."""
        return self.after(0)

    def use(self, seq):
        """The number is about to be sent."""
        if seq > self.used:
            # Not above what has been given out: `next` above it would hide a lost counter.
            used = max(seq, min(seq + RESERVE - 1, self._last))
            self._write(("UPDATE stream SET used = ?", (used,)))
            self.used = used

    def safe(self, seq):
        """Everything up to the number is safe: forget it."""
        done = self._db.execute("DELETE FROM batch WHERE seq <= ?", (seq,))
        self._count -= done.rowcount

    def remove(self, seq):
        """Takes one batch out; returns it, or nothing."""
        entry = self._one("SELECT * FROM batch WHERE seq = ?", seq)
        if entry:
            self._write(("DELETE FROM batch WHERE seq = ?", (seq,)))
            self._count -= 1
        return entry

    def renumber(self, above):
        """Gives everything that is held new numbers above this one, in order."""
        rows = self._db.execute("SELECT * FROM batch ORDER BY seq").fetchall()
        last, used = above + len(rows), max(self.used, above)
        self._write(
            ("DELETE FROM batch", ()),
            *(
                ("INSERT INTO batch VALUES (?, ?, ?, ?)", (above + offset, *row[1:]))
                for offset, row in enumerate(rows, 1)
            ),
            ("UPDATE stream SET last = ?, used = ?", (last, used)),
        )
        self._last, self.used = last, used

    def again(self, seq):
        """Gives one batch a new number, behind all others."""
        entry = self._one("SELECT * FROM batch WHERE seq = ?", seq)
        if entry is None:
            return None
        self._write(
            ("UPDATE batch SET seq = ? WHERE seq = ?", (self._last + 1, seq)),
            ("UPDATE stream SET last = ?", (self._last + 1,)),
        )
        self._last += 1
        return Entry(self._last, entry.made, entry.pack, entry.tag)

    def close(self):
        """Closes the file."""
        self._db.close()
