"""The same model in a faster engine, with proof that it answers the same. Part of step *load*; called by the loader.

Belongs here: reading models into engines (`linear`, `steps`, `encoders`, `table`, `*_trees`), writing them (`graph`,
`wire`), proving them (`rows`, `gate`), timing them (`speed`), remembering the verdict (`cache`), and the runtime that
holds them (`switch`).
Does not: loading a model, and anything a request brings. Imports numpy at once; frameworks only where a model of
theirs has come, and their converters only in a child process.
"""

from headrace.runtimes.optimize.choose import Acceptance, optimize
from headrace.runtimes.optimize.switch import Engines

__all__ = ["Acceptance", "Engines", "optimize"]
