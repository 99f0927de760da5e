#!/usr/bin/env python3
"""Watches a broker and judges what arrives: holes that no gap record explains, duplicates, order,
latency. The yardstick for a consumer of your own: run both beside each other and compare.

    verify.py mqtt://localhost --until-quiet 10

Exit status: 0 all is explained; 1 there are holes or violations of order; 2 usage; 3 no broker.
"""

import argparse
import json
import sys
import time

from telehub_consumer import Consumer, digest


class Numbers:
    """A set of sequence numbers as ascending, disjoint ranges: a year of one stream is one range."""

    def __init__(self):
        self.ranges = []

    def add(self, first, last):
        """Returns how many of first..=last were not in it."""
        low, high, known = first, last, 0
        kept = []
        for start, end in self.ranges:
            if end + 1 < first or start > last + 1:
                kept.append((start, end))
                continue
            known += max(0, min(end, last) - max(start, first) + 1)
            low, high = min(low, start), max(high, end)
        kept.append((low, high))
        self.ranges = sorted(kept)
        return last - first + 1 - known

    def holes(self):
        """The ranges between the first and the last number that are not in it."""
        pairs = zip(self.ranges, self.ranges[1:])
        return [(left[1] + 1, right[0] - 1) for left, right in pairs]


class Stream:
    def __init__(self):
        self.seen, self.explained = Numbers(), Numbers()
        self.newest = {"data": 0, "history": 0}

    def holes(self):
        whole = Numbers()
        for first, last in self.seen.ranges + self.explained.ranges:
            whole.add(first, last)
        return whole.holes()


class Report:
    def __init__(self, clock=time.time):
        self.streams, self.unnumbered, self.clock = {}, set(), clock
        self.batches = self.readings = self.duplicates = self.gaps = self.disordered = 0
        self.latency = {"data": [], "history": []}
        self.disorder = []

    def take(self, portion):
        now = self.clock()
        for where, what in portion:
            stream = self.streams.setdefault(
                (where.hub, what["device"], what["stream"]), Stream()
            )
            if where.kind == "gap":
                self.gaps += 1
                if what["from"] is not None:
                    stream.explained.add(what["from"], what["to"])
            elif self.is_new(stream, what):
                self.batches += 1
                self.readings += len(what["pack"])
                self.latency[where.kind].append(now - what["received"])
                self.in_order(where, stream, what)
            else:
                self.duplicates += 1

    def is_new(self, stream, batch):
        if batch["seq"] is not None:
            return stream.seen.add(batch["seq"], batch["seq"]) == 1
        name = digest(batch)
        known = name in self.unnumbered
        self.unnumbered.add(name)
        return not known

    def in_order(self, where, stream, batch):
        """Within a stream and lane, what is new comes in the order of its numbers."""
        if batch["seq"] is None:
            return
        before = stream.newest[where.kind]
        if batch["seq"] < before:
            self.disordered += 1
            self.disorder.append((where.device, batch["stream"], where.kind, before, batch["seq"]))
        stream.newest[where.kind] = max(before, batch["seq"])

    def summary(self):
        holes = [
            {"hub": hub, "device": device, "stream": name, "from": first, "to": last}
            for (hub, device, name), stream in sorted(self.streams.items())
            for first, last in stream.holes()
        ]
        return {
            "streams": len(self.streams),
            "batches": self.batches,
            "readings": self.readings,
            "duplicates": self.duplicates,
            "gap_records": self.gaps,
            "holes": holes,
            "out_of_order": self.disordered,
            "latency_s": {lane: quantiles(all_) for lane, all_ in self.latency.items() if all_},
        }


def quantiles(values):
    """Seconds between the hub's arrival stamp and this machine's clock: only as true as both."""
    values = sorted(values)
    at = lambda part: round(values[min(len(values) - 1, int(part * len(values)))], 3)
    return {"p50": at(0.5), "p99": at(0.99), "max": at(1)}


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("url", help="mqtt://[user:password@]host[:port], or mqtts://")
    parser.add_argument("--prefix", default="telehub", help="uplink.prefix of the hubs")
    parser.add_argument("--client-id", default="telehub-verify", help="keep it: the session is its")
    parser.add_argument("--mqtt", choices=["5", "3.1.1"], default="5")
    parser.add_argument("--for", dest="seconds", type=float, help="stop after so many seconds")
    parser.add_argument("--until-quiet", type=float, metavar="S", help="stop after S silent seconds")
    parser.add_argument("--batches", type=int, metavar="N", help="stop after N different batches")
    parser.add_argument("--sparse", action="store_true", help="devices leave numbers out on purpose")
    parser.add_argument("--json", action="store_true", help="the summary as one line of JSON")
    return parser.parse_args()


def watch(args, report):
    began = heard = time.monotonic()
    count = lambda: report.batches + report.duplicates + report.gaps
    consumer = Consumer(args.url, args.client_id, report.take, args.prefix, args.mqtt == "5")
    consumer.connect()
    while True:
        before = count()
        if not consumer.step():
            consumer.connect()
        now = time.monotonic()
        heard = now if count() != before else heard
        if args.seconds and now - began >= args.seconds:
            return
        if args.batches and report.batches >= args.batches:
            return
        if args.until_quiet and count() and now - heard >= args.until_quiet:
            return


def main():
    args, report = arguments(), Report()
    try:
        watch(args, report)
    except KeyboardInterrupt:
        pass
    except OSError as error:
        print(f"verify: cannot read {args.url}: {error}", file=sys.stderr)
        return 3
    summary = report.summary()
    if args.json:
        print(json.dumps(summary))
    else:
        for key, value in summary.items():
            print(f"{key:13} {value}")
        for device, stream, lane, before, seq in report.disorder[:20]:
            print(f"out of order: {device} {stream} {lane}: {seq} after {before}")
    holes = summary["holes"] and not args.sparse
    return 1 if holes or summary["out_of_order"] else 0


if __name__ == "__main__":
    sys.exit(main())
