"""Side-by-side measurements against other tools; `make bench` runs them."""
