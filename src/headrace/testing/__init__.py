"""Testing: conformance classes for the roles, for our own implementations and for anybody's.

Belongs here: one module per role, with a pytest class to inherit. Does not belong here: anything src imports.
May import: every room below it, and pytest.
"""
