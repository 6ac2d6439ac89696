"""Programs that measure: results are JSON files in results/, from which tables.py makes the tables of the docs."""
