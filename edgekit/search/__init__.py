"""Which repair, which layer: choices by calibration data alone; knows no runtime."""
