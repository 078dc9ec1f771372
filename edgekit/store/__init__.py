"""The store on a device: releases by content, files once by digest, `current` by one rename."""
