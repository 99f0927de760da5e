"""Hubs that mean harm: whatever they send costs them their message or their connection, never the
device. Runs on CPython: python3 -m unittest discover -s tests."""

import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))

from telehub import MAX_MESSAGE, MAX_OUT, Core, dumps, loads  # noqa: E402


def frame(payload, op=2, fin=128):
    size = len(payload)
    head = bytes([fin | op, size]) if size < 126 else bytes([fin | op, 126, size >> 8, size & 255])
    return head + payload


def upgraded():
    events = []
    core = Core("h", "d", "t", 4, on_event=lambda *event: events.append(event), on_command=lambda *_: None)
    core.events = events
    core.put([{0: "x", 2: 1}], 0, "tag")
    core.connected(0)
    core.out = bytearray()
    core.input(b"HTTP/1.1 101 x\r\nSec-WebSocket-Accept: " + core.proof + b"\r\n\r\n", 0)
    core.out = bytearray()
    return core


def welcomed(**more):
    core = upgraded()
    body = {"stream": core.stream, "seq": 0, "window": 4}
    body.update(more)
    core.input(frame(dumps({"welcome": body})), 0)
    core.tick(0)
    core.out = bytearray()
    return core


class Hostile(unittest.TestCase):
    def test_no_value_of_a_known_field_raises(self):
        kinds = {
            "welcome": ["seq", "stream", "window", "max_message", "max_rate", "ping_interval", "ping_timeout"],
            "ack": ["seq", "result"],
            "reject": ["seq", "result", "code", "detail"],
            "note": ["code", "detail", "seq"],
            "command": ["id", "name", "args", "timeout"],
        }
        odd = [None, True, -1, 2**64 - 1, 1e300, float("nan"), float("-inf"), "x" * 1900, b"x", [], {}, [[]]]
        for kind, fields in kinds.items():
            for field in fields:
                for value in odd:
                    for begin in (upgraded, welcomed):
                        core = begin()
                        good = {"stream": core.stream, "seq": 0, "id": "1", "name": "a", "code": "malformed"}
                        for body in ({field: value}, dict(good, **{field: value})):
                            core.input(frame(dumps({kind: body})), 0)
                            core.tick(1)

    def test_what_is_no_cbor_is_a_fault_and_the_next_message_is_read(self):
        for message in (b"", b"\xff", b"\x9f", b"\x81" * 2000, b"\x9b" + b"\xff" * 8, b"\xbb" + b"\x7f" * 8,
                        b"\x5a\x7f\xff\xff\xff", b"\x61\xff", b"\xa1\x80\x00", b"\xa1\xa0\x00", b"\x00\x00"):
            core = welcomed()
            core.input(frame(message), 0)
            core.input(frame(dumps({"note": {"detail": "still here"}})), 0)
            self.assertEqual(core.events[-1], ("note", "still here"))

    def test_marks_above_what_numbers_can_be_are_no_welcome(self):
        for mark in ((1 << 52) + 1, 1 << 53, 2**64 - 1, 1e300):
            core = upgraded()
            core.input(frame(dumps({"welcome": {"stream": core.stream, "seq": mark}})), 0)
            self.assertEqual(core.phase, 2)

    def test_pings_whose_answers_are_not_read_take_no_memory(self):
        core = welcomed()
        for _ in range(10000):
            core.input(frame(bytes(125), 9), 0)
        self.assertLess(len(core.out), MAX_OUT + 200)

    def test_the_same_command_a_thousand_times_is_answered_once(self):
        core = welcomed()
        for _ in range(1000):
            core.input(frame(dumps({"command": {"id": "1", "name": "echo"}})), 0)
        self.assertEqual(len(core.unsent), 1)

    def test_frames_against_the_rules_end_the_connection(self):
        for bytes_ in (b"\x82\x81\0\0\0\0x", b"\xc2\x00", b"\x83\x00", b"\x89\x7e\x00\x7e" + bytes(126), b"\x09\x00",
                       b"\x80\x00", b"\x02\x00\x02\x00", b"\x82\x7f" + b"\xff" * 8, b"\x82\x7e\x08\x01"):
            core = welcomed()
            core.input(bytes_, 0)
            self.assertTrue(core.hang_up, bytes_)
            self.assertLess(len(core.rx), MAX_MESSAGE)

    def test_numbers_of_more_than_64_bits_are_refused_here(self):
        self.assertEqual(loads(dumps(2**64 - 1)), 2**64 - 1)
        self.assertRaises(ValueError, dumps, 2**64)


if __name__ == "__main__":
    unittest.main()
