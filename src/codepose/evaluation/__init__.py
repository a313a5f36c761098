"""Poses to numbers and pictures: the visible surface discrepancy, metrics, drawings, the report."""
