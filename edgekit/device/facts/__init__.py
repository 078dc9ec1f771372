"""Facts about a device: a probe reads them once, a watch samples them while runs are timed.

Both run a script on the device. Pure parsers, tested on recordings, read its output.
"""
