"""Pictures: each takes results, draws them and returns the Axes; none computes, saves or shows."""
