"""Searches for repairs and float layers, by calibration data alone; they know no runtime."""
