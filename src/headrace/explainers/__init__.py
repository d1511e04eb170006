"""Why a model says what it says: each asks the model through one function and a budget. No wire, no file, no thread."""
