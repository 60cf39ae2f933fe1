"""Pictures and clips that people bring, which may be broken, strange or hostile.

Everything that opens such a file runs in a child process with limits (`reader` starts it, `child` is it). What a file
shows is decided in one place each: `pictures`, `videos`, `folders`; `colour` and `timing` say how. See docs/inputs.md.
"""
