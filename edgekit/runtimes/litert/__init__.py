"""LiteRT (TensorFlow Lite), with XNNPACK: conversion, int8 after conversion, the native runner."""
