"""The programs of a calibration: small models that cover operators, shapes and precisions."""
