"""Packages that a model asks for beside itself, made into an environment once. `app.py` calls it before a load.

    read (requirements) -> compare with what runs here (unmet) -> decide (plan) -> make (build, packed) -> Prepared

`Environments.prepare` is that walk, with a memory for files that have not changed; `describe` says what it would do.
Reading takes its files through a function and deciding is pure; only `build` and `packed` run a process or write.
`files` says whether there is anything to do, and is quick to import. What runs inside an environment is the worker's
business (`serving.workers`).
"""
