"""The store on a device: releases named by digest, files shared, `current` set by one rename."""
