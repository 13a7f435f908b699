"""The API: JSON and CSV below /api/v1, described by the types that check requests.

How to add a resource: declare the parameters as a struct (`query.py` reads it), the documents as TypedDicts, and each
method of each path as an Operation, in a module of its own; list these in `catalogue.py`, and their handlers in
`routes.py`. The OpenAPI document has them by itself.
"""

from portspec.web.api.routes import Api

__all__ = ["Api"]
