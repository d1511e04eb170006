"""Batch on upload: what stores tell of new objects, a ledger of what is done with each, and the loop between the two.

Every object is answered once. An object is a uri and an etag; whatever tells of it (an event, a poll, both, twice) only
makes the watcher look. Nothing here opens a listener: the command line gives one and offers what comes.
"""
