"""Measuring a bundle: golden inputs, latency statistics, operators, sessions on devices."""
