"""What a device tells about itself: a probe for one moment, a watch while runs are timed.

Their scripts run on the device; what they print goes through pure parsers, tested on recordings.
"""
