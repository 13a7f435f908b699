"""portspec: every host has exactly the ports open that it should."""

__version__ = "0.2.0"
