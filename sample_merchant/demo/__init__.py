"""The demo: the relief of a flooded township, played with real processes over real HTTP."""
