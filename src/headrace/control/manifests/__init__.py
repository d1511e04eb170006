"""Manifests made for other systems, turned into our resources. One file per dialect; pure."""
