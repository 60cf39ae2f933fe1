"""A toy theatre: everyday things that move over painted places, with captions, drawn on the device that trains.

`things` and `motions` say what there is, `scene` draws one at random, `captions` says it in words, `sprites` and
`places` make the pictures, `render` puts them together. A frame is 256x144, y points down, times are in seconds.
"""

WIDTH, HEIGHT, FPS = 256, 144, 24
