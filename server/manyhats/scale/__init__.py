"""Several replicas of the server behind one address, with Ray Serve (the extra `ray`).

`router`, `deployment` and `launcher` import Ray, and are imported when `manyhats scale` runs; the rest does without.
"""
