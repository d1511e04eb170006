"""Outliers, drift, adversarial inputs, bias and performance: statistics on arrays. No wire, no file, no thread."""
