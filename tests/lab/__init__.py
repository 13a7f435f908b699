"""The lab: hosts whose truth is known, in network namespaces that the tests make."""
