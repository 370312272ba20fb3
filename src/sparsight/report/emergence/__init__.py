"""The page of an emergence run: when concepts appear, and what can be changed when."""
