"""Measurements of CarePOS, each beside the floor it is measured against."""
