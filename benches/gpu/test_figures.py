"""Tests of figures.py: python3 -m unittest discover benches/gpu. `cargo xtask test` runs them."""

import unittest

import figures


class Figures(unittest.TestCase):
    def test_quantiles_lie_between_values(self):
        for share, expected in [(0, 1.0), (0.5, 2.5), (1, 4.0), (0.25, 1.75)]:
            self.assertEqual(figures.quantile([4.0, 1.0, 3.0, 2.0], share), expected)
        self.assertEqual(figures.median([7.0]), 7.0)

    def test_windows_are_steps_and_seconds(self):
        windows = [(1, 3.0), (2, 1.0), (0, 1.0), (2, 2.0)]
        self.assertEqual(figures.after(windows, 3.0), windows[1:])
        self.assertEqual(figures.step_times(windows), [3.0, 0.5, 1.0])

    def test_the_spread_is_relative(self):
        self.assertEqual(figures.spread([2.0] * 9), 0.0)
        self.assertAlmostEqual(figures.spread([float(n) for n in range(1, 12)]), 8 / 6)

    def test_mfu_is_of_known_cards_only(self):
        per_token = figures.flops_per_token(124_000_000, 12, 768, 1024)
        self.assertEqual(per_token, 6 * 124_000_000 + 12 * 12 * 768 * 1024)
        self.assertAlmostEqual(figures.mfu(989.4e12 / per_token / 2, per_token, "NVIDIA H200"), 0.5)
        # A slice of a card has its name in front.
        for card in ["NVIDIA H100 80GB HBM3 MIG 1g.10gb", "processor", ""]:
            self.assertIsNone(figures.mfu(1.0, per_token, card))

    def test_the_rival_is_the_quickest_when_all_are_measured(self):
        rates = {"a": 1.0, "b": 3.0, "c": 9.0}
        self.assertEqual(figures.rival(rates, ["a", "b"]), "b")
        self.assertEqual(figures.rival(rates, {"b": "B", "a": "A"}), "b")
        self.assertIsNone(figures.rival(rates, ["a", "b", "d"]))

    def test_failed_tests_are_named(self):
        printed = ("running 3 tests\ntest a ... ok\n\nfailures:\n\n---- b stdout ----\n\nno\n\n"
                   "failures:\n    b\n    c::d\n\ntest result: FAILED. 1 passed; 2 failed")
        self.assertEqual(figures.failed_tests(printed), ["b", "c::d"])
        self.assertEqual(figures.failed_tests("test a ... ok\n\ntest result: ok. 1 passed"), [])

    def test_numbers_are_short(self):
        for value, expected in [(None, "not measured"), (123456.7, "123,457"), (2800, "2,800"),
                                (0.01234, "0.0123")]:
            self.assertEqual(figures.number(value), expected)
        self.assertEqual(figures.percent(0.01234), "1.23 %")
        self.assertEqual(figures.percent(None), "not measured")

    def test_the_table_has_a_line_for_every_finding_and_failure(self):
        steps = [
            {"name": "a", "error": None, "rows": [figures.row("x", "1", "2", False)]},
            {"name": "b", "error": "two\nlines | bar", "rows": []},
        ]
        facts = dict.fromkeys(["date", "card", "driver", "torch", "brine", "command"], "?")
        results = {**facts, "seconds": 1.0, "steps": steps}
        lines = figures.markdown(results).splitlines()
        self.assertIn("| a | x | 1 | 2 | NO |", lines)
        self.assertIn("| b | failed | two lines / bar | | NO |", lines)
        self.assertEqual(figures.failed(results), ["b"])


if __name__ == "__main__":
    unittest.main()
