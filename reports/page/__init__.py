"""The page of evidence: its sections, its tables, its templates."""
