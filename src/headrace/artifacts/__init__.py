"""Bytes of models and of data, wherever they are: uris, stores, credentials, downloads into a cache. Imports no other
room but `errors`.
"""
