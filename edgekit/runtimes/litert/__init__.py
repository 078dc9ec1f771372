"""LiteRT (TensorFlow Lite), with XNNPACK: conversion, int8 after conversion, the native runner."""

import os

# Before LiteRT is imported: its C++ libraries write notes to stderr, below Python's.
for _name, _value in {"TF_CPP_MIN_LOG_LEVEL": "3", "TF_ENABLE_ONEDNN_OPTS": "0"}.items():
    os.environ.setdefault(_name, _value)
