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
        self.seen, self.explained, self.totals = Numbers(), Numbers(), set()
        self.newest = {"data": 0, "history": 0}

    def missing(self):
        whole = Numbers()
        for first, last in self.seen.ranges + self.explained.ranges:
            whole.add(first, last)
        return whole

    def holes(self, awaited=False):
        """The ranges that nothing explains, and how many numbers wait for the next total.

        A total of the hub's rules (reason `reduced`) explains as many missing numbers as it says, not
        one more. What is missing above the last one is told within the hour, where `awaited`."""
        whole = self.missing()
        for first, last, batches, _time in sorted(self.totals):
            within = [
                (max(first, low), min(last, high))
                for low, high in [*whole.holes(), *self.ends(whole, first, last)]
                if low <= last and high >= first
            ]
            if sum(high - low + 1 for low, high in within) <= batches:
                for low, high in within:
                    whole.add(low, high)
        told = max((last for _first, last, *_ in self.totals), default=0)
        holes, waiting = [], 0
        for low, high in whole.holes():
            if awaited and high > told:
                waiting += high - max(low, told + 1) + 1
                high = told
            if low <= high:
                holes.append((low, high))
        return holes, waiting

    @staticmethod
    def ends(whole, first, last):
        """What a total reaches beyond the first and the last number that came."""
        if not whole.ranges:
            return [(first, last)]
        low, high = whole.ranges[0][0], whole.ranges[-1][1]
        return [(first, low - 1)] * (first < low) + [(high + 1, last)] * (last > high)


class Report:
    def __init__(self, clock=time.time, awaited=False):
        self.awaited, self.left_out = awaited, 0
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
                if what.get("reason") == "reduced":
                    self.total(stream, what)
                elif what["from"] is not None:
                    stream.explained.add(what["from"], what["to"])
            elif self.is_new(stream, what):
                self.batches += 1
                self.readings += len(what["pack"])
                self.latency[where.kind].append(now - what["received"])
                self.in_order(where, stream, what)
            else:
                self.duplicates += 1

    def total(self, stream, gap):
        """What the hub's rules left out: no loss, and no more than it says."""
        key = (gap["from"] or 0, gap["to"] or 0, gap["batches"], gap["time"])
        if key not in stream.totals:
            stream.totals.add(key)
            self.left_out += gap["readings"]

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
        holes, waiting = [], 0
        for (hub, device, name), stream in sorted(self.streams.items()):
            ranges, more = stream.holes(self.awaited)
            waiting += more
            holes += [
                {"hub": hub, "device": device, "stream": name, "from": first, "to": last}
                for first, last in ranges
            ]
        return {
            "streams": len(self.streams),
            "batches": self.batches,
            "readings": self.readings,
            "duplicates": self.duplicates,
            "gap_records": self.gaps,
            "left_out_by_rules": self.left_out,
            "awaiting_total": waiting,
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
    parser.add_argument(
        "--reduced",
        action="store_true",
        help="the hubs have [[reduce]] rules: numbers above the last total of a stream are not judged",
    )
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
    args = arguments()
    report = Report(awaited=args.reduced)
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
