"""Tests, corrections for many tests, bootstrap intervals."""
