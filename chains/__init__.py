"""Recipes: one build function a file, Runnables in, one Runnable out."""
