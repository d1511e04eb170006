"""Files of rows, by format: each read in pieces and written in batches. One module per format, a line in `registry`.

The rest of the batch room opens files through `registry`; `names` tells formats by names. May import `batch.base`.
"""
