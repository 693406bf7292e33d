"""The demo says of the small size what it does of the large one. The commands of README: tests/docs. `--help`: test_help."""

from __future__ import annotations

from examples import demo


def test_the_demo_of_the_small_size_says_that_all_is_equal(tmp_path, capfd):
    demo.run("tiny", tmp_path)
    assert "44 of 44 entries have the same bytes, 6 counters among them" in capfd.readouterr().out
