"""What each fault of the surroundings does to each part of the exporter.

A test of such a case has the decorator @fault, with a sentence of what an operator may expect. `make reliability` runs
these tests and writes the table of docs/reliability.md from them; a test compares the two.
"""
