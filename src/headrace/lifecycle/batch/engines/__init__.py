"""The same batch job on somebody's cluster: Spark, Ray. One file per engine, and one line in `base.ENGINES`.

An engine is handed tasks and gives back what became of them; it sees no row. May import what `lifecycle.batch` may.
"""
