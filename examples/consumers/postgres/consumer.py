#!/usr/bin/env python3
"""Stores every reading of every hub in PostgreSQL (or TimescaleDB), each exactly once.

    psql -d telemetry -f schema.sql
    consumer.py mqtt://localhost postgresql:///telemetry

A portion of messages is one transaction; the broker hears of it after COMMIT. Killed at any
moment, it is sent what was not committed again, and the unique keys take that for what it is.
"""

import argparse
import pathlib
import sys
import time

import psycopg

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent))
from telehub_consumer import Consumer, digest  # noqa: E402

BATCH = """
    INSERT INTO batch (hub, device, stream, seq, digest, late, received, clock)
    VALUES (%s, %s, %s, %s, %s, %s, to_timestamp(%s), %s)
    ON CONFLICT DO NOTHING RETURNING id
"""
READING = """
    INSERT INTO reading (batch, place, time, name, unit, number, text, truth, bytes, sum)
    VALUES (%s, %s, to_timestamp(%s), %s, %s, %s, %s, %s, %s, %s)
"""
GAP = """
    INSERT INTO gap (hub, device, stream, first, last, batches, readings, reason, time)
    VALUES (%s, %s, %s, %s, %s, %s, %s, %s, to_timestamp(%s))
    ON CONFLICT DO NOTHING
"""


def store(database, portion):
    with database.transaction(), database.cursor() as cursor:
        for where, what in portion:
            if where.kind == "gap":
                numbers = (what["from"] or 0, what["to"] or 0)
                counts = (what["batches"], what["readings"], what["reason"], what["time"])
                cursor.execute(GAP, (where.hub, what["device"], what["stream"], *numbers, *counts))
                continue
            name = digest(what) if what["seq"] is None else None
            key = (where.hub, what["device"], what["stream"], what["seq"], name)
            rest = (where.kind == "history", what["received"], what.get("clock"))
            new = cursor.execute(BATCH, key + rest).fetchone()
            if new:
                cursor.executemany(READING, list(rows(new[0], what["pack"])))


def rows(batch, pack):
    for place, record in enumerate(pack):
        values = (record.get(label) for label in ("u", "v", "vs", "vb", "vd", "s"))
        yield (batch, place, record["t"], record["n"], *values)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("broker", help="mqtt://[user:password@]host[:port], or mqtts://")
    parser.add_argument("database", help="a libpq URL, e.g. postgresql:///telemetry")
    parser.add_argument("--prefix", default="telehub", help="uplink.prefix of the hubs")
    parser.add_argument("--client-id", default="telehub-postgres", help="keep it: it names the session")
    parser.add_argument("--mqtt", choices=["5", "3.1.1"], default="5")
    args = parser.parse_args()
    while True:
        try:
            with psycopg.connect(args.database, autocommit=True) as database:
                keep = lambda portion: store(database, portion)
                consumer = Consumer(args.broker, args.client_id, keep, args.prefix, args.mqtt == "5")
                consumer.connect()
                while consumer.step():
                    pass
                print("the broker closed the connection; trying again", file=sys.stderr)
        except (OSError, psycopg.OperationalError) as error:
            print(f"trying again: {error}", file=sys.stderr, flush=True)
        time.sleep(1)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(0)
