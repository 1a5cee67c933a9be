"""Each known fault of the field has a test by its name."""

import re

from tests.house.sources import ROOT

NAMED = {*range(1, 21), 25, 26, 27, 28}  # 21 to 24 belong to the protocol's figures


def test_every_fault_has_a_test_by_its_name():
    found = {int(number) for path in ROOT.glob("tests/**/test_*.py")
             for number in re.findall(r"(?:def test_f|class TestF)(\d+)[A-Z_]", path.read_text(encoding="utf-8"))}
    assert not NAMED - found
