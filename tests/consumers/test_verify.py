"""The yardstick itself: `python -m unittest` with examples/consumers on the path."""

import unittest

from telehub_consumer import Address, address, decode
from verify import Numbers, Report


def batch(seq, kind="data", **more):
    what = {"device": "cow", "stream": "a", "seq": seq, "received": 90.0, "pack": [{"n": "t"}]}
    return Address("telehub", "barn", "cow", kind), what | more


def gap(first, last):
    where = Address("telehub", "barn", "cow", "gap")
    return where, {"device": "cow", "stream": "a", "from": first, "to": last}


def total(first, last, batches, readings=1):
    where, what = gap(first, last)
    return where, what | {"reason": "reduced", "batches": batches, "readings": readings, "time": 1.0}


def judged(*messages, awaited=False):
    report = Report(clock=lambda: 100.0, awaited=awaited)
    for message in messages:
        report.take([message])
    return report.summary()


class Verify(unittest.TestCase):
    def test_a_missing_number_is_a_hole_until_it_comes_on_the_other_lane(self):
        live = [batch(1), batch(2), batch(5)]
        holes = judged(*live)["holes"]
        self.assertEqual([(hole["from"], hole["to"]) for hole in holes], [(3, 4)])
        whole = judged(*live, batch(3, "history"), batch(4, "history"))
        self.assertEqual((whole["holes"], whole["out_of_order"]), ([], 0))

    def test_a_gap_record_explains_exactly_its_numbers(self):
        holes = judged(batch(1), batch(6), gap(2, 4))["holes"]
        self.assertEqual([(hole["from"], hole["to"]) for hole in holes], [(5, 5)])
        self.assertEqual(judged(batch(1), batch(6), gap(2, 5))["holes"], [])

    def test_a_total_of_the_rules_explains_as_many_numbers_as_it_says_and_no_more(self):
        came = [batch(1), batch(4), batch(9)]
        whole = judged(*came, total(2, 8, 6, 12), total(2, 8, 6, 12))
        self.assertEqual((whole["holes"], whole["left_out_by_rules"]), ([], 12))
        holes = judged(*came, total(2, 8, 5))["holes"]
        self.assertEqual([(hole["from"], hole["to"]) for hole in holes], [(2, 3), (5, 8)])
        # A loss in between has a record of its own, and what was only shortened came.
        self.assertEqual(judged(*came, total(2, 9, 5), gap(6, 6))["holes"], [])

    def test_what_is_missing_above_the_last_total_is_awaited_where_that_is_asked_for(self):
        came = [batch(1), batch(3), batch(5), total(2, 2, 1)]
        self.assertEqual(len(judged(*came)["holes"]), 1)
        awaited = judged(*came, awaited=True)
        self.assertEqual((awaited["holes"], awaited["awaiting_total"]), ([], 1))
        below = judged(batch(1), batch(3), batch(5), batch(7), total(6, 6, 1), awaited=True)
        self.assertEqual([hole["from"] for hole in below["holes"]], [2, 4])

    def test_a_total_that_reaches_beyond_what_came_leaves_no_room_for_holes_within(self):
        # 7 and 8 were left out as well, and have not been followed by anything.
        self.assertEqual(judged(batch(1), batch(3), batch(6), total(2, 8, 5))["holes"], [])
        holes = judged(batch(1), batch(3), batch(6), total(2, 8, 4))["holes"]
        self.assertEqual([hole["from"] for hole in holes], [2, 4])

    def test_the_second_one_is_a_duplicate_on_either_lane(self):
        summary = judged(batch(1), batch(1, "history"), batch(1))
        self.assertEqual((summary["batches"], summary["duplicates"]), (1, 2))

    def test_without_a_number_only_the_very_same_batch_is_a_duplicate(self):
        summary = judged(batch(None), batch(None), batch(None, received=91.0))
        self.assertEqual((summary["batches"], summary["duplicates"]), (2, 1))

    def test_a_new_number_below_the_newest_of_its_lane_is_a_violation(self):
        self.assertEqual(judged(batch(2), batch(1))["out_of_order"], 1)
        self.assertEqual(judged(batch(2), batch(1, "history"))["out_of_order"], 0)

    def test_streams_and_hubs_are_apart(self):
        other = batch(1, stream="b")
        elsewhere = (Address("telehub", "shed", "cow", "data"), batch(1)[1])
        summary = judged(batch(1), other, elsewhere)
        self.assertEqual((summary["streams"], summary["duplicates"]), (3, 0))

    def test_ranges_grow_together_in_any_order(self):
        numbers = Numbers()
        for number in (5, 1, 3, 2, 4, 3):
            numbers.add(number, number)
        self.assertEqual(numbers.ranges, [(1, 5)])
        self.assertEqual(numbers.add(4, 8), 3)

    def test_topics_of_others_are_not_ours(self):
        self.assertEqual(address("farm/barn/cow/data", "farm").device, "cow")
        for topic in ("farm/barn/status", "farm/barn/cow/status", "x/barn/cow/data", "farm/a/b/c/data"):
            self.assertIsNone(address(topic, "farm"), topic)

    def test_cbor_is_told_from_json(self):
        self.assertEqual(decode(b'{"seq": 1}'), {"seq": 1})
        self.assertEqual(decode(bytes.fromhex("a16373657101")), {"seq": 1})


if __name__ == "__main__":
    unittest.main()
