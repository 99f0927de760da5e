"""The core without a network: what goes in, what comes out."""

import os
import random
import tempfile
import unittest

import cbor2

from telehub_device import Command, Core, Dropped, MemoryQueue, Rejected, Renumbered, SqliteQueue
from telehub_device import policy


def welcome(core, seq=0, now=0.0, **more):
    body = {"stream": core.queue.stream, "seq": seq, "ping_interval": 20.0, "ping_timeout": 10.0,
            "max_message": 65536, "max_rate": 0, "window": 4, **more}
    core.received(cbor2.dumps({"welcome": body}), now)


def sent(core, now=0.0):
    """Numbers and values of every batch that the core hands out now."""
    out = []
    while (message := core.outgoing(now)) is not None:
        kind, body = next(iter(cbor2.loads(message).items()))
        if kind == "data":
            out.append((body["seq"], body["pack"][0]["v"]))
    return out


def core_with(count, queue=None):
    core = Core(MemoryQueue(100) if queue is None else queue, rng=random.Random(1))
    for value in range(1, count + 1):
        core.put([{"n": "x", "v": value}], 0.0, value)
    core.connected(0.0)
    core.outgoing(0.0)
    return core


def lose(core):
    core.lost("cut", 1.0)
    core.connected(2.0)
    hello = cbor2.loads(core.outgoing(2.0))["hello"]
    return hello["next"]


class Resuming(unittest.TestCase):
    def test_nothing_is_sent_before_the_welcome(self):
        core = core_with(3)
        self.assertEqual(sent(core), [])
        welcome(core)
        self.assertEqual(sent(core), [(1, 1), (2, 2), (3, 3)])

    def test_below_next_what_is_not_safe_comes_again_under_its_old_number(self):
        core = core_with(6)
        welcome(core)
        self.assertEqual(len(sent(core)), 4)
        self.assertEqual(lose(core), 5)
        welcome(core, seq=2)
        self.assertEqual(sent(core, 2.0), [(3, 3), (4, 4), (5, 5), (6, 6)])

    def test_a_lower_mark_than_what_was_acked_uses_no_number_again(self):
        core = core_with(3)
        welcome(core)
        sent(core)
        core.received(cbor2.dumps({"ack": {"seq": 3}}), 0.5)
        self.assertTrue(core.idle)
        self.assertEqual(lose(core), 4)
        welcome(core, seq=0, known=False)
        core.put([{"n": "x", "v": 9}], 2.0)
        self.assertEqual(sent(core, 2.0), [(4, 9)])

    def test_at_or_above_next_everything_held_is_renumbered(self):
        for mark in (4, 1000):
            core = core_with(3)
            welcome(core)
            sent(core)
            self.assertEqual(lose(core), 4)
            welcome(core, seq=mark)
            self.assertIn(Renumbered(mark), core.events())
            self.assertEqual(sent(core, 2.0), [(mark + 1, 1), (mark + 2, 2), (mark + 3, 3)])

    def test_a_mark_within_numbers_that_were_given_and_never_sent_is_a_lost_counter(self):
        core = core_with(6)
        welcome(core, seq=3)
        self.assertEqual(sent(core), [(4, 1), (5, 2), (6, 3), (7, 4)])


class Rejecting(unittest.TestCase):
    def test_bad_seq_gives_the_content_a_new_number(self):
        core = core_with(2)
        welcome(core)
        sent(core)
        core.received(cbor2.dumps({"reject": {"seq": 1, "code": "bad-seq", "detail": ""}}), 0.1)
        self.assertEqual(sent(core), [(3, 1)])

    def test_a_reject_without_number_is_laid_to_the_only_batch_in_flight(self):
        core = core_with(1)
        welcome(core)
        sent(core)
        core.received(cbor2.dumps({"reject": {"code": "malformed", "detail": "no"}}), 0.1)
        self.assertIn(Rejected(1, 1, "malformed", "no"), core.events())
        self.assertTrue(core.idle)

    def test_a_batch_is_given_up_only_after_it_was_alone_twice(self):
        core = core_with(3)
        for attempt in range(3):
            welcome(core)
            expected = 3 if attempt == 0 else 1
            self.assertEqual(len(sent(core)), expected)
            core.events()
            core.closed(1007, 0.0)
            given_up = [event for event in core.events() if isinstance(event, Rejected)]
            self.assertEqual(len(given_up), 1 if attempt == 2 else 0)
            core.connected(0.0)
            core.outgoing(0.0)
        self.assertEqual(given_up[0].tag, 1)

    def test_an_ack_of_what_was_never_sent_takes_nothing(self):
        core = core_with(6)
        welcome(core)
        sent(core)
        core.received(cbor2.dumps({"ack": {"seq": 5}}), 0.1)
        self.assertEqual(core.must_close, 1002)
        self.assertEqual(len(core.queue), 6)


class Commands(unittest.TestCase):
    def test_a_result_comes_again_until_it_is_acked(self):
        core = core_with(0)
        welcome(core)
        command = {"command": {"id": "c", "name": "n", "args": 1, "timeout": 5}}
        core.received(cbor2.dumps(command), 0.0)
        self.assertIn(Command("c", "n", 1, 5.0), core.events())
        core.received(cbor2.dumps(command), 0.0)
        self.assertFalse(any(isinstance(event, Command) for event in core.events()))
        core.result("c", True, name="n", value=7)
        expected = {"result": {"id": "c", "ok": True, "name": "n", "value": 7}}
        self.assertEqual(cbor2.loads(core.outgoing(0.0)), expected)
        self.assertIsNone(core.outgoing(0.0))
        lose(core)
        welcome(core, now=2.0)
        self.assertEqual(cbor2.loads(core.outgoing(2.0)), expected)
        core.received(cbor2.dumps({"ack": {"result": "c"}}), 2.0)
        self.assertTrue(core.idle)


class Bounds(unittest.TestCase):
    def test_what_a_full_queue_pushes_out_is_told(self):
        core = Core(MemoryQueue(2))
        for value in range(5):
            core.put([{"n": "x", "v": value}], 0.0, value)
        self.assertEqual([event.tag for event in core.events() if isinstance(event, Dropped)],
                         [0, 1, 2])

    def test_deep_nesting_and_nonsense_are_ignored(self):
        core = core_with(1)
        for message in (b"", b"\xff", b"\xa1\x63ack" + b"\x81" * 50000, b"\x9f" * 9, "[" * 9000,
                        cbor2.dumps({"ack": {"seq": -1}}), cbor2.dumps([1]), "{}"):
            core.received(message, 0.0)
        self.assertEqual(len(core.queue), 1)
        self.assertIsNone(core.must_close)

    def test_pauses_stay_within_their_bounds(self):
        rng = random.Random(2)
        for failures in (0, 1, 7, 1000):
            self.assertLessEqual(policy.backoff(failures, rng), policy.LONGEST)
            self.assertTrue(60 <= policy.after_close(4001, failures, rng) <= 75)
            self.assertGreaterEqual(policy.after_close(1001, failures, rng), 1)
            self.assertGreaterEqual(policy.after_refusal(401, None, failures, rng), 3600)
            self.assertLessEqual(policy.after_refusal(503, 1e9, failures, rng), 3600 * 1.1)
        self.assertIs(policy.after_close(4002, 0, rng), policy.STOP)


class OnDisk(unittest.TestCase):
    def setUp(self):
        directory = tempfile.TemporaryDirectory()
        self.addCleanup(directory.cleanup)
        self.path = os.path.join(directory.name, "queue.db")

    def test_a_restart_keeps_batches_numbers_and_stream(self):
        queue = SqliteQueue(self.path)
        core = core_with(5, queue)
        welcome(core)
        self.assertEqual([seq for seq, _ in sent(core)], [1, 2, 3, 4])
        core.received(cbor2.dumps({"ack": {"seq": 2}}), 0.1)
        stream, before = queue.stream, queue.next
        queue.close()
        queue = SqliteQueue(self.path)
        self.assertEqual((queue.stream, len(queue)), (stream, 3))
        self.assertGreaterEqual(queue.next, before)
        core = Core(queue)
        core.put([{"n": "x", "v": 6}], 0.0)
        core.connected(0.0)
        core.outgoing(0.0)
        welcome(core, seq=2)
        self.assertEqual(sent(core), [(3, 3), (4, 4), (5, 5), (6, 6)])
        queue.close()

    def test_a_damaged_file_is_set_aside_and_a_new_stream_begins(self):
        with open(self.path, "wb") as file:
            file.write(b"this is no database" * 1000)
        queue = SqliteQueue(self.path)
        self.assertEqual(len(queue), 0)
        self.assertTrue(os.path.exists(self.path + ".damaged"))
        queue.close()

    def test_renumbering_and_bad_seq_survive_a_restart(self):
        queue = SqliteQueue(self.path)
        for value in range(3):
            queue.push(b"\x80", 0.0, value)
        queue.renumber(10)
        self.assertEqual(queue.again(11).seq, 14)
        queue.close()
        queue = SqliteQueue(self.path)
        entry, numbers = queue.oldest(), []
        while entry:
            numbers.append((entry.seq, entry.tag))
            entry = queue.after(entry.seq)
        self.assertEqual(numbers, [(12, 1), (13, 2), (14, 0)])
        queue.close()


if __name__ == "__main__":
    unittest.main()
