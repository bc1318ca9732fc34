"""Tests of dataops."""
