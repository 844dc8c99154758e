"""Parsing of command lines: recipes, error messages and help pages."""
