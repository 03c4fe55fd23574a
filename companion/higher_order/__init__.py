"""Derivatives of any order."""
