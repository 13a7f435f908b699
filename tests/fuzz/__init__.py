"""Fuzzing of what strangers can send: each harness holds one entrance of portspec to what the rest relies on.

A harness (`harness.py`) is defined once and run in two ways:

* `make test` replays its seeds and its corpus and changes them, the same way each time (`test_harnesses.py`);
* `make fuzz` runs it for as long as one likes, guided by coverage where atheris is installed (`engine.py`).

To add one, write a function that takes bytes, calls the code and asserts what must hold of the result. It catches the
exceptions that the code may raise; every other one is a finding. Make a Harness of it with seeds, which are taken from
tests/data where possible, the words of its language, and its limits of work. List it in the HARNESSES of its module and
in `catalogue.py`.
"""
