"""A whole mesh in one thread and in simulated time, all chance from a seed.

The decisions are those of `mesh.core` itself; what stands here takes the place of processes, sockets, disks and clocks.
"""
