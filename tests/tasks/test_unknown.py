"""An unknown name is told what it is like, where it is like anything."""

from forgetting.tasks.unknown import nearest


def test_only_what_is_like_it_is_proposed():
    known = ["ewc", "l2sp", "freeze"]
    assert nearest("method", "frieze", known) == (
        "there is no method 'frieze'; did you mean 'freeze'? Known: ewc, l2sp, freeze")
    assert nearest("method", "spring.py", known) == "there is no method 'spring.py'. Known: ewc, l2sp, freeze"
