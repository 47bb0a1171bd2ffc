"""Connectors: BatchWeave streams in the training, processing and lineage tools that people use.

One module a tool, imported by its own name (``batchweave.connectors.torch_dataset``) so that only
the tool in use has to be installed. No module is named after the package that it wraps.
Imports: the core, catalogs, and the wrapped package.
"""
