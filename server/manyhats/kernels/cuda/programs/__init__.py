"""What runs on the device: programs in Triton, each of which computes one tile of one operation.

A tile is a row of `tiles` (tiles, 3), int32: the first row of the batch, how many rows, the slot. A program without
rows, or whose slot has no entry, ends at once: a launch that is replayed with other tiles and entries computes those.
`structs` (slots, 8), int64, has the entry of each slot: numbers, and addresses of the adapter's own tensors (see
`kernels.cuda.entries`). Sums are in float32. `ALIGNED`: whether all of these addresses are multiples of 16, so that
several numbers can be read at once. `PRECISION`: of products of float32, which `launch` chooses.

Only programs are here, because the decorator reads a function's source and its module's names.
"""
