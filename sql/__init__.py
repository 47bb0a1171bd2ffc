"""SQL over a stream: the session, and the views and audits that it offers.

``views/*.sql`` and ``audits/*.sql`` hold one statement a file, named after what it returns.
Imports: the core, catalogs, DuckDB.
"""
