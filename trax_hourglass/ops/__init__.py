"""Pure functions on arrays: attention and its forms, positions, caches, dropout, random keys, remat. Knows no Trax."""
