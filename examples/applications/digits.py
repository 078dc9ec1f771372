"""Reads handwritten digits: python3 digits.py FOLDER < IMAGES

IMAGES: 256 bytes each, 64 little-endian float32 from -1 (paper) to 1 (ink). edgekit_model.py, from
any bundle, lies beside this file.
"""

import sys

from edgekit_model import Model

with Model(sys.argv[1]) as model:
    while True:
        image = sys.stdin.buffer.read(256)
        if not image:
            break
        if not model.is_current():  # something was deployed, or rolled back
            model.reload()
        (scores,) = model(image).tolist()
        print(scores.index(max(scores)), flush=True)
