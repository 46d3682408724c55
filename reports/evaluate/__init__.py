"""Evaluations: each computes a table, writes ``summary.json`` and draws its figures."""
